"""Guesses of what comes next, from what came before (prompt lookup decoding, Saxena 2023).

Where the last tokens have occurred before, what followed them then is likely to follow again:
names, quotations, code, and the loops of a greedy model. A model checks several guessed tokens
in hardly more time than it takes for one, as both read all weights once.
"""

from collections.abc import Sequence

_LENGTH = 3  # tokens that must have occurred before
_MOST = 7  # guesses at once
_FEWEST = 1


class DraftTokens:
    """Guesses for one row; the better they were, the more it makes."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, ...], int] = {}  # tokens -> where what followed them is
        self._known = 0  # tokens of the history that are in `_last`
        self._count = _MOST // 2

    def guess(self, history: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `history`, which has grown since the last call."""
        if most < 1:
            return []
        key = tuple(history[-_LENGTH:])
        for end in range(max(self._known, _LENGTH), len(history)):
            self._last[tuple(history[end - _LENGTH : end])] = end
        self._known = len(history)
        start = self._last.get(key) if len(key) == _LENGTH else None
        if start is None:
            return []
        guesses: list[int] = []
        for place in range(start, start + min(self._count, most)):
            # Past its end, the history goes on as guessed: in a loop, round and round.
            is_known = place < len(history)
            guesses.append(history[place] if is_known else guesses[place - len(history)])
        return guesses

    def learn(self, guessed: int, right: int) -> None:
        """Count how many of the last guesses, from the first on, were right."""
        if right == guessed:
            self._count = min(_MOST, self._count + 2)
        elif right < guessed / 2:
            self._count = max(_FEWEST, self._count // 2)
