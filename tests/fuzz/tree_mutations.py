"""Changes of values that JSON or msgpack can hold, with their structure known."""

from collections.abc import Sequence
from typing import Any

from fuzz.byte_mutations import mutated_bytes
from fuzz.draws import HUGE, Draws

_TEXTS = (
    *("", " ", "\0", "\x1b[31m", "\n", "a\nb", "é", "￿", "😀", "../../etc/passwd", "/", "null"),
    *("x" * 255, "x" * 256, "x" * 257, "y" * 5000, "%s%n", "nan", "-1", "1e999", "__proto__"),
)
_LONG = (100, 300, 5000)  # elements of a list that is made long


class TreeMutator:
    """Changes a value at a random place, and takes texts from a dictionary of its own."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        """Take the words that mean something to the reader."""
        self._words = tuple(words)

    def __call__(self, draws: Draws, value: Any) -> Any:
        """Return a value that differs at one place. Only what is changed is copied."""
        if isinstance(value, dict):
            return self._dict(draws, value)
        if isinstance(value, list):
            return self._list(draws, value)
        return self._leaf(draws, value)

    def _dict(self, draws: Draws, value: dict[Any, Any]) -> Any:
        if not value:
            return {self._text(draws): self._any(draws)} if draws.below(2) else self._any(draws)
        keys = list(value)
        key, choice = draws.one_of(keys), draws.below(32)
        if choice < 24:
            return {**value, key: self(draws, value[key])}
        if choice < 26:
            return {name: own for name, own in value.items() if name != key}
        if choice == 26:
            return {(self._text(draws) if n == key else n): own for n, own in value.items()}
        if choice == 27:
            return {**value, self._text(draws): self._any(draws)}
        if choice == 28:
            other = draws.one_of(keys)
            return {**value, key: value[other], other: value[key]}
        if choice == 29:
            return {**value, key: self._any(draws)}
        if choice == 30:
            return {**{name: own for name, own in value.items() if name != key}, key: value[key]}
        return self._any(draws)

    def _list(self, draws: Draws, value: list[Any]) -> Any:
        if not value:
            return [self._any(draws)] if draws.below(2) else self._any(draws)
        at, choice = draws.below(len(value)), draws.below(32)
        if choice < 24:
            return [*value[:at], self(draws, value[at]), *value[at + 1 :]]
        if choice < 26:
            return value[:at] + value[at + 1 :]
        if choice == 26:
            return [*value[:at], value[at], *value[at:]]
        if choice == 27:
            other, changed = draws.below(len(value)), list(value)
            changed[at], changed[other] = changed[other], changed[at]
            return changed
        if choice == 28:
            return [*value[:at], self._any(draws), *value[at:]]
        if choice == 29:
            return draws.one_of(([], value[::-1], value[:at], [value]))
        if choice == 30:
            return [value[at]] * draws.one_of(_LONG) if draws.below(8) == 0 else value * 2
        return self._any(draws)

    def _leaf(self, draws: Draws, value: Any) -> Any:
        choice = draws.below(16)
        if choice == 0:
            return self._any(draws)
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            if choice < 6:
                return value + draws.one_of((-2, -1, 1, 2, 64, -64))
            return value * 2 if choice == 6 else draws.integer()
        if isinstance(value, float):
            return draws.floating()
        if isinstance(value, str):
            return self._changed_text(draws, value)
        return mutated_bytes(draws, value) if isinstance(value, bytes) else self._any(draws)

    def _changed_text(self, draws: Draws, value: str) -> str:
        if draws.below(3) == 0 and value:
            at = draws.below(len(value))
            return value[:at] + draws.one_of(("", "\0", ".", "9", value[at] * 2)) + value[at + 1 :]
        return self._text(draws)

    def _text(self, draws: Draws) -> str:
        if self._words and draws.below(3):
            return draws.one_of(self._words)
        return draws.one_of(_TEXTS)

    def _any(self, draws: Draws) -> Any:
        choice = draws.below(10)
        if choice < 3:
            return draws.integer()
        if choice == 3:
            return draws.one_of(HUGE)
        if choice == 4:
            return draws.floating()
        if choice == 5:
            return self._text(draws)
        return draws.one_of((None, True, False, [], {}, [[]], [0], {"a": 1}, b"", b"12345678"))
