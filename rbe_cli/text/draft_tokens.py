"""Draft tokens by prompt lookup (Saxena 2023, "Prompt Lookup Decoding").

Where the last tokens have occurred before, what followed them then is likely to follow again:
names, quotations, code, and the loops of a greedy model. A model verifies several draft tokens
in hardly more time than it takes for one, as both read all weights once (speculative decoding,
Leviathan et al. 2023). Only tokens that the model itself would have chosen are accepted.
"""

from collections.abc import Sequence

_LENGTH = 3  # tokens that must have occurred before
_MOST = 7  # draft tokens at once
_FEWEST = 1


class DraftTokens:
    """Proposes draft tokens for one row; the more are accepted, the more it proposes."""

    def __init__(self) -> None:
        """Begin without a history."""
        self._last: dict[tuple[int, ...], int] = {}  # tokens -> where what followed them is
        self._known = 0  # tokens of the history that are in `_last`
        self._count = _MOST // 2

    def propose(self, history: Sequence[int], most: int) -> list[int]:
        """Return up to `most` draft tokens.

        Args:
            history: the row's tokens, which have only grown since the last call.
            most: below 1, none are proposed.
        """
        if most < 1:
            return []
        key = tuple(history[-_LENGTH:])
        for end in range(max(self._known, _LENGTH), len(history)):
            self._last[tuple(history[end - _LENGTH : end])] = end
        self._known = len(history)
        start = self._last.get(key) if len(key) == _LENGTH else None
        if start is None:
            return []
        drafted: list[int] = []
        for place in range(start, start + min(self._count, most)):
            # Past its end, the history goes on as drafted: in a loop, round and round.
            is_known = place < len(history)
            drafted.append(history[place] if is_known else drafted[place - len(history)])
        return drafted

    def learn(self, proposed: int, accepted: int) -> None:
        """Adapt to how many of the last draft tokens, from the first on, were accepted."""
        if accepted == proposed:
            self._count = min(_MOST, self._count + 2)
        elif accepted < proposed / 2:
            self._count = max(_FEWEST, self._count // 2)
