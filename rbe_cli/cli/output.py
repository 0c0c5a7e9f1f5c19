"""The one place that prints: data on stdout, everything else on stderr."""

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

from rbe_cli.errors import OutputError, RbeError
from rbe_cli.progress import no_progress

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.progress import Progress

_NOTES = 10  # lines at most of a stage's notes, where there are no bars
_UNFOLDED = 1000  # columns of what is no terminal: a path in a file or pipe stays in one piece


class Format(StrEnum):
    """How results appear on stdout."""

    human = "human"
    json = "json"
    jsonl = "jsonl"
    quiet = "quiet"


@dataclass(frozen=True)
class Output:
    """Where a verb's results, notes and progress go.

    Attributes:
        format: of the results.
        quiet: nothing on stderr but errors.
        verbose: an error brings its traceback.
    """

    format: Format = Format.human
    quiet: bool = False
    verbose: bool = False

    def write(self, text: str) -> None:
        """Data as it is, at once.

        Raises:
            OutputError: stdout was closed, or its disk is full.
        """
        if sys.stdout is None:
            raise OutputError("stdout is closed")
        encoding = sys.stdout.encoding or "utf-8"
        try:
            # What a terminal that is not UTF-8 lacks is written as an escape.
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
        except OSError as error:
            _let_go(sys.stdout)
            raise OutputError(f"stdout cannot be written: {error.strerror}") from error

    def record(self, value: object) -> None:
        """One object as a line of JSON."""
        self.write(json.dumps(_plain(value)) + "\n")

    def result(self, value: object, show: Callable[["Console"], None]) -> None:
        """A verb's result: `value` for scripts, or what `show` draws for people."""
        if self.format is Format.json:
            self.write(json.dumps(_plain(value), indent=2) + "\n")
        elif self.format is Format.jsonl:
            self.record(value)
        elif self.format is Format.human:
            show(_console(_Writer(self)))

    def note(self, text: str) -> None:
        """A line for people, on stderr."""
        if not self.quiet:
            _report(_printable(text))

    def error(self, error: RbeError, cause: BaseException | None = None) -> int:
        """Report an error; returns its exit code."""
        if self.verbose:
            _report("".join(traceback.format_exception(cause or error)).rstrip())
        if self.format in (Format.json, Format.jsonl):
            report = {"error": {"code": error.exit_code, "message": str(error)}}
            _report(json.dumps(report))
        else:
            _report(f"rbe: {_printable(str(error))}")
        return error.exit_code

    def interrupted(self, code: int) -> None:
        """Say that the user ended the command, with this exit code."""
        if self.format in (Format.json, Format.jsonl):
            _report(json.dumps({"error": {"code": code, "message": "interrupted"}}))
        else:
            self.note("interrupted")

    @contextmanager
    def progress(self) -> Iterator["Progress"]:
        """A callback that shows stages with bars and remaining time, or a line a stage."""
        if self.quiet:
            yield no_progress
        elif _is_terminal(sys.stderr):
            with _bars() as progress:
                yield progress
        else:
            yield self._stage_line

    def _stage_line(self, stage: str, done: int, total: int, note: str = "") -> None:
        if done == 0:
            self.note(f"{stage} ...")
        elif note and done % max(total // _NOTES, 1) == 0:
            self.note(f"{stage}, {done} of {total}: {note}")


class _Writer:
    """The file a rich console writes to: `Output.write`, without rich's spaces at line ends."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, text: str) -> int:
        self._output.write(re.sub(" +(?=\n)", "", text))
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return _is_terminal(sys.stdout)


def requested_output(arguments: Sequence[str]) -> Output:
    """The output that a command line asks for, also if the rest of it cannot be parsed."""
    chosen = Format.human
    for flag, following in zip(arguments, [*arguments, ""][1:], strict=True):
        name, is_one_word, value = flag.partition("=")
        value = value if is_one_word else following
        if name == "--format" and value in list(Format):
            chosen = Format(value)
    quiet = "-q" in arguments or "--quiet" in arguments
    verbose = "-v" in arguments or "--verbose" in arguments
    return Output(chosen, quiet, verbose)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A table for people; the first column is text, the others are aligned as numbers."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="right" if index else "left")
    for row in rows:
        drawn.add_row(*(escape(_printable(cell)) for cell in row))
    return drawn


def facts(pairs: Sequence[tuple[str, str]]) -> Any:
    """Names and values, one pair a line."""
    from rich.markup import escape
    from rich.table import Table

    drawn = Table.grid(padding=(0, 2))
    for name, value in pairs:
        drawn.add_row(f"[bold]{escape(_printable(name))}[/bold]", escape(_printable(value)))
    return drawn


def size(count: int) -> str:
    """Bytes with a decimal unit."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.2f} {unit}"


def _printable(text: str) -> str:
    """Without control characters, which text from a file may hold."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _plain(value: object) -> object:
    """Dataclasses as dicts; numbers that JSON lacks as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not -1e308 < value < 1e308:
        return None
    return value


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _report(text: str) -> None:
    """A line on stderr; that it cannot be written is no reason to give up the work."""
    if sys.stderr is None:  # where `print` would turn to stdout
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _let_go(sys.stderr)


def _let_go(stream: TextIO) -> None:
    """Send what a broken stream still holds nowhere: Python flushes it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _console(file: object) -> "Console":
    from typing import cast

    from rich.console import Console

    width = None if _is_terminal(sys.stdout) else _UNFOLDED
    return Console(file=cast(TextIO, file), highlight=False, width=width)


@contextmanager
def _bars() -> Iterator["Progress"]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, note="")
            bars.update(tasks[stage], completed=done, total=total, note=note)

        yield progress
