"""A generation whose results and timings are kept while its steps stream by."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from rbe_cli.text.generation import FinishReason, GenerationSession, GenerationStep, generate
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.logprobs import ChosenLogprob
from rbe_cli.text.tokenizer import Tokenizer


@dataclass
class GenerationStats:
    """Counts the tokens that went through the model, of all rows, and the seconds spent there.

    Sampling, detokenisation and whoever consumes the steps are not counted. A prefill that
    refills a full context counts as prefill. `time_to_first_token_seconds` runs from the start
    of the iteration to the first step, sampling included; None before it.
    """

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    time_to_first_token_seconds: float | None = None

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Tokens of prompts a second; None if there were none."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_tokens else None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """New tokens a second; None if none was decoded: a row's first is of the prefill."""
        return self.decode_tokens / self.decode_seconds if self.decode_tokens else None


@dataclass
class GenerationResult:
    """Holds what one row has generated so far; `finish_reason` is None while it goes on.

    `tokens` holds every token that was generated, an end-of-text token and those of a stop
    string included; `text` holds neither. `logprobs` belong to the tokens one by one; they are
    empty if none were asked for. `statistics` are those of all rows together.
    """

    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: FinishReason | None = None
    logprobs: list[ChosenLogprob] = field(default_factory=list)
    statistics: GenerationStats = field(default_factory=GenerationStats)

    def add(self, step: GenerationStep) -> None:
        """Add the row's next step."""
        self.tokens.append(step.token)
        if step.logprobs is not None:
            self.logprobs.append(step.logprobs)
        self.text += step.text
        self.finish_reason = step.finish_reason


class TimedSession:
    """Passes all calls on to another session, and measures their time."""

    def __init__(self, session: GenerationSession, stats: GenerationStats) -> None:
        """Measure the calls of `session` into `stats`."""
        self._session = session
        self._stats = stats
        self.n_positions = session.n_positions
        self.vocab_size = session.vocab_size

    def borrow_rows(self, count: int) -> AbstractContextManager[Sequence[int]]:
        """Lend rows of the session."""
        return self._session.borrow_rows(count)

    def length(self, row: int) -> int:
        """Return the number of tokens in a row."""
        return self._session.length(row)

    def reset(self, row: int) -> None:
        """Empty a row."""
        self._session.reset(row)

    def prefill(self, row: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Count the tokens as those of a prompt."""
        start = perf_counter()
        logits = self._session.prefill(row, tokens)
        self._stats.prefill_seconds += perf_counter() - start
        self._stats.prefill_tokens += tokens.size
        return logits

    def decode(self, rows: Sequence[int], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Count one new token a row."""
        start = perf_counter()
        logits = self._session.decode(rows, tokens)
        self._stats.decode_seconds += perf_counter() - start
        self._stats.decode_tokens += tokens.size
        return logits

    def extend(self, row: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Count the tokens as new ones."""
        start = perf_counter()
        logits = self._session.extend(row, tokens)
        self._stats.decode_seconds += perf_counter() - start
        self._stats.decode_tokens += tokens.size
        return logits

    def truncate(self, row: int, length: int) -> None:
        """Take rejected draft tokens off the count."""
        self._stats.decode_tokens -= self._session.length(row) - length
        self._session.truncate(row, length)


class RecordedGeneration:
    """Runs `generate`, and keeps the rows' results and the timings; iterate over it for the steps.

    Both are complete when the iteration ends, and right at any moment before, so an interrupted
    run can report what it has.

    Raises:
        UsageError: as `generate`, at once.
    """

    def __init__(
        self,
        session: GenerationSession,
        prompts: Sequence[NDArray[np.int64]],
        options: GenerationOptions,
        tokenizer: Tokenizer | None,
        eos_token_ids: Collection[int],
    ) -> None:
        """Begin a generation; arguments as of `generate`."""
        self.stats = GenerationStats()
        self.results = [GenerationResult(prompt.size, statistics=self.stats) for prompt in prompts]
        timed = TimedSession(session, self.stats)
        self._steps = generate(timed, prompts, options, tokenizer, eos_token_ids)

    def __iter__(self) -> Iterator[GenerationStep]:
        """Yield the steps, each after it was added to its row's result."""
        start = perf_counter()
        for step in self._steps:
            if self.stats.time_to_first_token_seconds is None:
                self.stats.time_to_first_token_seconds = perf_counter() - start
            self.results[step.row].add(step)
            yield step
