"""The `rbe` command: its five verbs, and the one place where errors become exit codes."""

from collections.abc import Sequence

import typer

from rbe_cli import __version__
from rbe_cli.cli import bench, compress, generate, inspect, run_verb
from rbe_cli.cli.help import Verb, Verbs
from rbe_cli.cli.output import Output, requested_output
from rbe_cli.errors import INTERRUPTED, RbeError, UsageError

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
app.command("compress", cls=Verb, epilog=compress.EXAMPLES)(compress.compress)
app.command("inspect", cls=Verb, epilog=inspect.EXAMPLES)(inspect.inspect)
app.command("run", cls=Verb, epilog=run_verb.EXAMPLES)(run_verb.run)
app.command("generate", cls=Verb, epilog=generate.EXAMPLES)(generate.generate)
app.command("bench", cls=Verb, epilog=bench.EXAMPLES)(bench.bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        Output().write(f"rbe {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Show the version."
    ),
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run a command line; every error becomes one sentence on stderr and an exit code."""
    output = requested_output(arguments)
    try:
        code = app(list(arguments) or ["--help"], prog_name="rbe", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except RbeError as error:
        return output.error(error)
    except MemoryError:
        return output.error(RbeError("there is not enough memory"))
    except Exception as error:
        # The command-line parser's own errors carry their sentence in this method.
        sentence = getattr(error, "format_message", None)
        if sentence is None:
            return output.error(RbeError(f"unexpected {type(error).__name__}: {error}"), error)
        return output.error(UsageError(sentence()))
    if code == INTERRUPTED:  # which some versions of the parser return themselves
        output.interrupted(code)
    return int(code)
