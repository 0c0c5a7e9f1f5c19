"""The text of a row that may be shown: its tokens decoded, up to a stop string."""

from collections.abc import Sequence

from rbe_cli.text.stop import StopMatcher
from rbe_cli.text.tokenizer import Tokenizer


class TextStream:
    """Turns tokens into text that may be shown; without a tokenizer the text is empty.

    The text is that which the tokens add to `context`, the ids of the prompt.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, stops: Sequence[str], context: Sequence[int]
    ) -> None:
        self._tokens = tokenizer.stream(context) if tokenizer else None
        self._matcher = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._matcher.stopped

    def push(self, token: int) -> str:
        """Return the text that may be shown after one more token."""
        return self._matcher.push(self._tokens.push(token)) if self._tokens else ""

    def finish(self) -> str:
        """Release what is held back, because no token will follow."""
        rest = self._tokens.finish() if self._tokens else ""
        return self._matcher.push(rest) + self._matcher.finish()
