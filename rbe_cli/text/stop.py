"""Stop strings, found in text that arrives in pieces."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text on until the first of some strings is complete.

    Text that may be the beginning of a stop string is held back until that is decided. The
    result does not depend on how the text was cut into pieces: the string that ends first
    stops, and of two that end together the longer one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Take the next piece; return what can be released, nothing once stopped."""
        if self.stopped:
            return ""
        text = self._held + piece
        matches = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if matches:
            _, start = min(matches)
            self.stopped, self._held = True, ""
            return text[:start]
        release = len(text) - self._undecided(text)
        self._held = text[release:]
        return text[:release]

    def finish(self) -> str:
        """Release what was held back, because no more text will come."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Return the length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        lengths = range(longest, 0, -1)
        return next((n for n in lengths if any(s.startswith(text[-n:]) for s in self._stops)), 0)
