"""How a task tells how far it is, without printing anything itself."""

from typing import Protocol


class Progress(Protocol):
    """Called as a stage advances; the first call of a stage has `done` = 0.

    `note` is what the last step gave, such as a loss.
    """

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def no_progress(stage: str, done: int, total: int, note: str = "") -> None:
    """Reports to nobody."""
