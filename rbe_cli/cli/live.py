"""Progress on stderr: one live line on a terminal, and now and then a line in a log."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rbe_cli.cli.terminal_text import printable
from rbe_cli.progress import Outlook, Progress, Stage

_PAUSE = 30  # seconds at least between two lines about the same stage in a log
_COUNTABLE = 100_000  # above this, `done` and `total` are bytes, and say nothing to people


@contextmanager
def live_line(stages: Sequence[Stage]) -> Iterator[Progress]:
    """Show one line on the terminal for all stages: how much is done, and what remains."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),  # which may name a file
        BarColumn(bar_width=20),
        TextColumn("{task.fields[outlook]}"),
        TextColumn("{task.fields[note]}", markup=False),
    )
    outlook = Outlook(stages)
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("", total=1, outlook="", note="")

        def progress(stage: str, done: int, total: int, note: str = "") -> None:
            outlook.report(stage, done, total)
            bar.update(
                line,
                description=printable(f"{stage} {done}/{total}" if total < _COUNTABLE else stage),
                completed=outlook.share or 0.0,
                outlook=", ".join(_remaining(outlook)),
                note=note,
            )

        yield progress


def log_lines(
    write: Callable[[str], None],
    stages: Sequence[Stage],
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Return a progress that writes a line when another stage begins, then one in 30 seconds."""
    outlook = Outlook(stages, clock)
    latest, written = "", clock()

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal latest, written
        outlook.report(stage, done, total)
        is_due = clock() - written >= _PAUSE or (note and done == total)
        if stage != latest:
            write(f"{stage} ...")
        elif is_due:
            counted = f", {done} of {total}" if total < _COUNTABLE else ""
            found = [note, *_remaining(outlook)] if note else _remaining(outlook)
            write(f"{stage}{counted}: {', '.join(found)}")
        else:
            return
        latest, written = stage, clock()

    return progress


def _remaining(outlook: Outlook) -> list[str]:
    """Return how much of the whole is done, and about how long the rest takes."""
    found = []
    if outlook.share is not None:
        found.append(f"{outlook.share:.0%} of all")
    if outlook.seconds_left is not None:
        found.append(f"about {duration(outlook.seconds_left)} left")
    return found


def duration(seconds: float) -> str:
    """Return a time as people say it, such as `40 s`, `12 min` or `2 h 5 min`."""
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
