"""The `rbe` command: its five verbs, and the one place where errors become exit codes."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import typer

from rbe_cli.cli.faults import flags_of, told
from rbe_cli.cli.options import Verbose
from rbe_cli.cli.output import Output, requested_output
from rbe_cli.cli.verbs import Verbs
from rbe_cli.cli.version import version_text
from rbe_cli.errors import INTERRUPTED, ReaderGoneError, Terminated
from rbe_cli.memory_needs import memory_sentence
from rbe_cli.runtime.trusted_files import RefusedCodeWarning

_EXAMPLES = """\
rbe compress demo demo.rbe
rbe generate demo.rbe "It was a dark night, and"
rbe compress --help"""

app = typer.Typer(
    name="rbe",
    cls=Verbs,
    help="Compress GPT-2 checkpoints into small .rbe files, and run them on the CPU.",
    epilog=_EXAMPLES,
    rich_markup_mode=None,  # plain help: half the start-up time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(
        False,
        "--version",
        help="Show the version. With -v, also show what a bug report needs: the machine, the "
        "libraries and the settings.",
    ),
    verbose: Verbose = False,
) -> None:
    if version:
        Output().write(version_text(detailed=verbose))
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.fail("Missing command.")


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    """Return the flags of the verb that a command line names."""
    verbs = typer.main.get_group(app).commands
    verb = next((word for word in arguments if word in verbs), None)
    return flags_of(verbs[verb]) if verb else {}


def run(arguments: Sequence[str]) -> int:
    """Run a command line; every error becomes one sentence on stderr and an exit code."""
    output = requested_output(arguments)
    with _warnings_as_notes(output):
        return _run(arguments, output)


@contextmanager
def _warnings_as_notes(output: Output) -> Iterator[None]:
    """Show warnings of the package as notes; others as Python does."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, RefusedCodeWarning):
                output.note(str(message))
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        yield


def _run(arguments: Sequence[str], output: Output) -> int:
    try:
        code = app(list(arguments) or ["--help"], prog_name="rbe", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Terminated as ended:
        output.interrupted(ended.exit_code, str(ended))
        return ended.exit_code
    except SystemExit as end:  # raised by the parser
        if isinstance(end.__context__, BrokenPipeError):  # while it printed a help text
            return ReaderGoneError.exit_code
        return end.code if isinstance(end.code, int) else 0  # the shell's completion is done
    except ReaderGoneError as error:
        return error.exit_code
    except BaseException as error:  # some errors of libraries written in Rust are no `Exception`
        flags = {} if memory_sentence(error) else _flags(arguments)  # which take memory, too
        return output.error(told(error, arguments, flags), error)
    if code == INTERRUPTED:  # which some versions of the parser return themselves
        output.interrupted(code)
    return int(code)
