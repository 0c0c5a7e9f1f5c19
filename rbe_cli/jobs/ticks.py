"""Count the steps that tasks have finished, while they run."""

import threading
from typing import TypeVar

from rbe_cli.progress import Progress, no_progress

Result = TypeVar("Result")


class Ticks:
    """Tell a progress about steps of tasks that run side by side.

    A copy in another process, such as that of a task on a cluster, tells nothing: there, only
    `reach` advances the count.
    """

    def __init__(self, progress: Progress, stage: str, total: int, unit: int = 1) -> None:
        """Begin a stage.

        Args:
            progress: is called from the tasks' threads, but by one at a time.
            stage: its name.
            total: steps of all tasks.
            unit: steps that count as one in the report.
        """
        self._progress = progress
        self._stage = stage
        self._total = total
        self._unit = unit
        self._done = 0
        self._lock = threading.Lock()
        progress(stage, 0, total // unit)

    def add(self, steps: int) -> None:
        """Count steps of a task."""
        with self._lock:
            self._advance(self._done + steps)

    def counted(self, result: Result, steps: int = 1) -> Result:
        """Return the result of a task, and count its steps."""
        self.add(steps)
        return result

    def reach(self, steps: int) -> None:
        """Count up to `steps`, unless more are counted."""
        with self._lock:
            self._advance(max(self._done, steps))

    def _advance(self, done: int) -> None:
        before, self._done = self._done, min(done, self._total)
        if self._done // self._unit > before // self._unit:
            self._progress(self._stage, self._done // self._unit, self._total // self._unit)

    def __reduce__(self) -> tuple[type["Ticks"], tuple[Progress, str, int, int]]:
        """Pickle a counter that tells nothing."""
        return Ticks, (no_progress, self._stage, self._total, self._unit)
