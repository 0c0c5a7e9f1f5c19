"""The one place that prints: data on stdout, everything else on stderr."""

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

from rbe_cli.cli.terminal_text import printable, without_controls
from rbe_cli.errors import OutputError, RbeError, ReaderGoneError, UsageError
from rbe_cli.progress import Progress, Stage, no_progress
from rbe_cli.quoting import shortened

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

_PROSE = 20  # characters of a table's cell that are not wrapped
_RULES = 3  # characters between a table's columns
_UNFOLDED = 1000  # columns of what is no terminal: a path in a file or pipe stays in one piece


class Format(StrEnum):
    """Say how results appear on stdout."""

    human = "human"
    json = "json"
    jsonl = "jsonl"
    quiet = "quiet"


@dataclass(frozen=True)
class Output:
    """Write a verb's results, notes and progress.

    Attributes:
        format: of the results.
        quiet: nothing on stderr but errors.
        verbose: an error brings its traceback.
    """

    format: Format = Format.human
    quiet: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose exclude each other")

    def write(self, text: str) -> None:
        """Write data to stdout at once.

        Raises:
            OutputError: stdout was closed, or its disk is full.
            ReaderGoneError: nobody reads stdout any more.
        """
        if sys.stdout is None:
            raise OutputError("stdout is closed")
        try:
            sys.stdout.write(_encodable(text, sys.stdout))
            sys.stdout.flush()
        except OSError as error:
            _let_go(sys.stdout)
            if isinstance(error, BrokenPipeError):
                raise ReaderGoneError("nobody reads stdout any more") from error
            raise OutputError(f"stdout cannot be written: {error.strerror}") from error

    def write_text(self, text: str) -> None:
        """Write a model's text to stdout at once; errors as of `write`.

        A terminal would obey control sequences in it, so that it gets them escaped. Files and pipes
        get the text as it is.
        """
        self.write(without_controls(text) if _is_terminal(sys.stdout) else text)

    def record(self, value: object) -> None:
        """Print one object as a line of JSON."""
        self.write(json.dumps(_plain(value)) + "\n")

    def result(self, value: object, show: Callable[["Console"], None]) -> None:
        """Print a verb's result: `value` for scripts, or what `show` draws for people."""
        if self.format is Format.json:
            self.write(json.dumps(_plain(value), indent=2) + "\n")
        elif self.format is Format.jsonl:
            self.record(value)
        elif self.format is Format.human:
            show(_console(_ConsoleFile(self)))

    def note(self, text: str) -> None:
        """Write a line for people to stderr."""
        if not self.quiet:
            _report(_one_line(text))

    def error(self, error: RbeError, cause: BaseException | None = None) -> int:
        """Report an error; return its exit code."""
        with suppress(MemoryError):  # of which the error may be that there is too little
            if self.verbose:
                _report("".join(traceback.format_exception(cause or error)).rstrip())
        if self.format in (Format.json, Format.jsonl):
            report = {"error": {"code": error.exit_code, "message": shortened(str(error))}}
            _report(json.dumps(report))
        else:
            _report(f"rbe: {_one_line(str(error))}")
        return error.exit_code

    def interrupted(self, code: int, message: str = "interrupted") -> None:
        """Say that a signal ended the command, with this exit code."""
        if self.format in (Format.json, Format.jsonl):
            _report(json.dumps({"error": {"code": code, "message": message}}))
        else:
            self.note(message)

    @contextmanager
    def progress(self, stages: Sequence[Stage] = ()) -> Iterator[Progress]:
        """Give a callback that shows what remains: a live line on a terminal, few lines in a log.

        Args:
            stages: that the task will report, in order; none if they are not known before.
        """
        from rbe_cli.cli.live import live_line, log_lines

        if self.quiet:
            yield no_progress
        elif _is_terminal(sys.stderr):
            with live_line(stages) as progress:
                yield progress
        else:
            yield log_lines(self.note, stages)


class _ConsoleFile:
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
    """Return the output that a command line asks for, also if the rest cannot be parsed."""
    chosen = Format.human
    if "--" in arguments:
        arguments = arguments[: list(arguments).index("--")]
    for flag, following in zip(arguments, [*arguments, ""][1:], strict=True):
        name, is_one_word, value = flag.partition("=")
        value = value if is_one_word else following
        if name == "--format" and value in list(Format):
            chosen = Format(value)
    quiet = "-q" in arguments or "--quiet" in arguments
    verbose = "-v" in arguments or "--verbose" in arguments
    return Output(chosen, quiet and not verbose, verbose)


def drawable(text: str, plain: str) -> str:
    """Return `text` if stdout's code page has its characters, and otherwise `plain`."""
    try:
        text.encode(_encoding(sys.stdout))
    except UnicodeEncodeError:
        return plain
    return text


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    """Return a table for people: the first column is text, the others are aligned as numbers.

    A column of whole sentences is text too. Where the terminal is too narrow for the table, each
    row becomes a block of names and values.
    """
    return Table(title, columns, rows)


class Table:
    """Hold what `table` returns; rich draws it."""

    def __init__(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._title = title
        self._columns = columns
        self._rows = rows

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator[Any]:
        rows = [[_shown(cell) for cell in row] for row in self._rows]
        widths = [_narrowest(column) for column in zip(self._columns, *rows, strict=True)]
        if sum(widths) + _RULES * len(widths) <= options.max_width:
            yield self._grid(rows, widths)
            return
        for row in rows:
            yield ""
            yield facts(list(zip(self._columns, row, strict=True)))

    def _grid(self, rows: Sequence[Sequence[str]], widths: Sequence[int]) -> Any:
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        rule = drawable(str(box.SIMPLE_HEAD), str(box.SIMPLE_HEAD).replace("─", "-"))
        drawn = Table(
            title=self._title or None,
            box=box.Box(rule, ascii=True),  # ascii: rich does not choose another one
            title_justify="left",
            pad_edge=False,
        )
        for index, (column, width) in enumerate(zip(self._columns, widths, strict=True)):
            is_prose = any(len(row[index]) > width for row in rows)
            drawn.add_column(
                column,
                justify="right" if index and not is_prose else "left",
                min_width=width,
                no_wrap=not is_prose,
            )
        for row in rows:
            drawn.add_row(*map(escape, row))
        return drawn


def _narrowest(column: Sequence[str]) -> int:
    """Return the characters that a column needs: its longest cell, or word of a long cell."""
    from rich.cells import cell_len

    longest_word = max((cell_len(word) for cell in column for word in cell.split()), default=0)
    return max(longest_word, min(max(map(cell_len, column)), _PROSE))


def facts(pairs: Sequence[tuple[str, str]]) -> Any:
    """Return names and values, one pair a line."""
    from rich.markup import escape
    from rich.table import Table

    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in pairs:
        drawn.add_row(f"[bold]{escape(_shown(name))}[/bold]", escape(_shown(value)))
    return drawn


def size(count: int) -> str:
    """Return bytes with a decimal unit."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.2f} {unit}"


def _one_line(text: str) -> str:
    """Return a message as it is reported: what it quotes may hold line ends, and be long."""
    return shortened(printable(text))


def _shown(text: str) -> str:
    """Return a table's text as it will stand there, so that its width is known."""
    return _encodable(printable(text, "\n"), sys.stdout)


def _plain(value: object) -> object:
    """Return dataclasses as dicts, and numbers that JSON lacks as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not -1e308 < value < 1e308:
        return None
    return value


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _encodable(text: str, stream: TextIO | None) -> str:
    """Return the text with escapes for the characters that the stream's code page lacks."""
    encoding = _encoding(stream)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _report(text: str) -> None:
    """Write a line to stderr; work goes on if it cannot be written."""
    if sys.stderr is None:  # where `print` would turn to stdout
        return
    try:
        print(_encodable(text, sys.stderr), file=sys.stderr, flush=True)
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
