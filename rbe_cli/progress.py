"""How a task tells how far it is, without printing anything itself."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Progress(Protocol):
    """Called as a stage advances; the first call of each pass of a stage has `done` = 0.

    `note` is what the last step gave, such as a loss.
    """

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def no_progress(stage: str, done: int, total: int, note: str = "") -> None:
    """Report to nobody."""


@dataclass(frozen=True)
class Stage:
    """A kind of work that a task expects to do.

    Attributes:
        name: under which the task reports it.
        cost: about the time of one pass, in any unit that the task's stages share.
        passes: about how many passes there will be.
    """

    name: str
    cost: float
    passes: int = 1


class Outlook:
    """What remains of a task in all, from the reports of its stages.

    The costs need only be right relative to each other: the time that is left follows from the
    time that the work done so far has taken. Stages that were not declared, such as a
    compilation, count nothing, and neither does their time. If none was declared, the stage that
    is reported is taken for the whole task.

    Attributes:
        share: of the work that is done, from 0 to 1; it never falls. None if it is not known.
    """

    def __init__(
        self, stages: Sequence[Stage] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._declared = bool(stages)
        self._stages = {stage.name: stage for stage in stages}
        self._begun: dict[str, int] = {}  # passes
        self._part = 0.0  # of the pass that was reported last
        self._latest: str | None = None
        self._clock = clock
        self._since = clock()
        self._worked = 0.0  # seconds in declared stages
        self.share: float | None = None

    def report(self, stage: str, done: int, total: int) -> None:
        """Take in what a task says of a stage; see `Progress`."""
        now = self._clock()
        if self._latest in self._stages:
            self._worked += now - self._since
        self._since, self._latest = now, stage
        if not self._declared and stage not in self._stages:
            self._stages, self._begun = {stage: Stage(stage, 1.0)}, {}
            self._worked, self.share = 0.0, None
        if stage not in self._stages:
            return
        self._begun.setdefault(stage, 0)
        self._begun[stage] += done == 0 or self._begun[stage] == 0
        self._part = done / total if total else 0.0
        if expected := self._expected():
            self.share = max(self.share or 0.0, self._done() / expected)

    @property
    def seconds_left(self) -> float | None:
        """About the seconds that the rest will take; None where there is no telling, or no rest."""
        if not self.share or self.share == 1 or self._worked < 1:
            return None
        return self._worked * (1 - self.share) / self.share

    def _done(self) -> float:
        """Cost of the passes that are finished, and of a part of the one that runs."""
        done = sum(self._stages[name].cost * count for name, count in self._begun.items())
        if self._latest in self._stages:
            done -= self._stages[self._latest].cost * (1 - self._part)
        return done

    def _expected(self) -> float:
        """Cost of all passes, finished and to come.

        A stage has no pass to come if the last pass of a later one has begun.
        """
        names = list(self._stages)
        last = [
            position
            for position, name in enumerate(names)
            if self._begun.get(name, 0) >= self._stages[name].passes
        ]
        expected = 0.0
        for position, (name, stage) in enumerate(self._stages.items()):
            begun = self._begun.get(name, 0)
            is_over = bool(last) and position < last[-1]
            expected += stage.cost * (begun if is_over else max(begun, stage.passes))
        return expected
