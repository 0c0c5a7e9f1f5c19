"""Text as it is generated from Python: the options by name, and the steps as they come."""

from collections.abc import Iterator, Sequence
from typing import Self, TypedDict

from rbe_cli.choices import Overflow
from rbe_cli.text.generation import GenerationStep
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.recording import GenerationResult, GenerationStats, RecordedGeneration


class GenerationChoices(TypedDict, total=False):
    """The keyword arguments of `Model.generate`: those of `GenerationOptions`, whose defaults hold.

    `stop` may also be one string, or any sequence of strings.
    """

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    repetition_window: int
    stop: str | Sequence[str]
    seed: int
    greedy: bool
    on_overflow: Overflow
    lookup: bool
    logprobs: int | None


def options_of(choices: GenerationChoices) -> GenerationOptions:
    """Return the options that keyword arguments stand for.

    Raises:
        UsageError: a value lies outside its range.
        TypeError: there is no option of that name.
    """
    stop = choices.get("stop", ())
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    return GenerationOptions(**{**choices, "stop": strings})  # type: ignore[arg-type]


class Generation(Iterator[GenerationStep]):
    """An iterator of steps, which computes each token when it is asked for.

    Attributes:
        results: one for each prompt, right at any moment.
        statistics: tokens and seconds of all prompts together, right at any moment.
    """

    def __init__(self, recorded: RecordedGeneration) -> None:
        self.results: list[GenerationResult] = recorded.results
        self.statistics: GenerationStats = recorded.stats
        self._steps = iter(recorded)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> GenerationStep:
        """Compute the next token.

        Raises:
            StopIteration: every prompt's text has ended.
            RbeError: the logits are not finite.
        """
        return next(self._steps)

    def finish(self) -> list[GenerationResult]:
        """Compute all steps that are left, and return the results."""
        for _ in self:
            pass
        return self.results
