"""The options of generation, which are checked once."""

from dataclasses import dataclass

from rbe_cli.choices import Overflow
from rbe_cli.errors import UsageError

MAX_COUNT = 2**31 - 1  # of tokens
MAX_LOGPROBS = 1000  # likeliest tokens that are listed for each new one


@dataclass(frozen=True)
class GenerationOptions:
    """Says how tokens are chosen and when a row ends.

    Attributes:
        max_tokens: at most this many tokens a row.
        temperature: divides the logits; 0 is greedy.
        top_k: keep this many tokens; 0 keeps all.
        top_p: keep the likeliest tokens that together reach this probability; 1 keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
        repetition_penalty: 1 is none.
        repetition_window: tokens back, the prompt's included, that the penalty looks at.
        stop: strings that end a row when they appear in its text; they are not part of the text.
        seed: with the row's number, decides every draw.
        greedy: always the likeliest token.
        on_overflow: what happens once the context is full: the row ends, or the newest half of
            the context is kept.
        lookup: propose draft tokens from what came before, for greedy text of one row; changes
            the time that one row takes, never its tokens.
        logprobs: score each new token and so many of the likeliest; None scores nothing.

    Raises:
        UsageError: a value lies outside its range; the message names the flag.
    """

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    stop: tuple[str, ...] = ()
    seed: int = 0
    greedy: bool = False
    on_overflow: Overflow = "stop"
    lookup: bool = True
    logprobs: int | None = None

    def __post_init__(self) -> None:
        # Each range is written so that NaN lies outside it.
        rules = [
            (1 <= self.max_tokens <= MAX_COUNT, f"`max_tokens` must lie in [1, {MAX_COUNT}]"),
            (0 <= self.temperature <= 100, "`temperature` must lie in [0, 100]"),
            (0 <= self.top_k <= MAX_COUNT, f"`top_k` must lie in [0, {MAX_COUNT}]"),
            (0 < self.top_p <= 1, "`top_p` must lie in (0, 1]"),
            (0 <= self.min_p <= 1, "`min_p` must lie in [0, 1]"),
            (
                0.01 <= self.repetition_penalty <= 100,
                "`repetition_penalty` must lie in [0.01, 100]",
            ),
            (
                1 <= self.repetition_window <= MAX_COUNT,
                f"`repetition_window` must lie in [1, {MAX_COUNT}]",
            ),
            (all(self.stop), "`stop` must not be an empty string"),
            (0 <= self.seed < 1 << 64, "`seed` must lie in [0, 2^64)"),
            (
                self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS,
                f"`logprobs` must lie in [0, {MAX_LOGPROBS}]",
            ),
            (self.on_overflow in ("stop", "shift"), "`on_overflow` must be stop or shift"),
        ]
        for holds, sentence in rules:
            if not holds:
                raise UsageError(sentence)
