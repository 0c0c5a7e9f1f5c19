"""Writes docs/cli.md from the command line's own help.

    python tools/make_cli_reference.py

The page depends on the verbs and their options alone, not on the terminal. A test fails when it is
stale (tests/test_docs.py).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from rbe_cli import errors
from rbe_cli.cli.app import app
from rbe_cli.cli.help import records_by_heading

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
INTRODUCTION = """\
# Command line

<!-- Written by tools/make_cli_reference.py. Change the help texts in rbe_cli/cli/ instead. -->

`rbe VERB --help` shows the same texts. Results go to stdout; progress, notes, timings and errors go
to stderr. The fields of `--format json` are in the [JSON reference](json.md).
"""
EXIT_CODES = (
    (0, "The command did what it was asked to do."),
    (errors.RbeError.exit_code, "An error."),
    (errors.UsageError.exit_code, "The command line is wrong."),
    (errors.ContainerError.exit_code, "The file is damaged, or it is not what its name says."),
    (errors.NotFoundError.exit_code, "Something was not found, or the network is needed."),
    (errors.INTERRUPTED, "Interrupted with Ctrl-C (SIGINT)."),
    ("129, 143", "Ended by SIGHUP (its terminal was closed) or by SIGTERM, in the same way."),
    (errors.ReaderGoneError.exit_code, "The reader of stdout has gone, as with `rbe ... | head`."),
)


def escaped(text: str) -> str:
    """Return plain text such that Markdown shows it as it is."""
    return re.sub(r"([\\*_<`\[\]])", r"\\\1", " ".join(text.split()))


def page() -> str:
    """Return the whole page."""
    group: Any = get_command(app)
    context = group.make_context("rbe", [], resilient_parsing=True)
    lines = [INTRODUCTION, "## rbe", "", escaped(group.help), ""]
    lines += options(group, context)
    for name in group.list_commands(context):
        verb = group.get_command(context, name)
        lines += section(verb, verb.context_class(verb, info_name=name, parent=context))
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES]
    return "\n".join(lines) + "\n"


def section(verb: Any, context: Any) -> Iterator[str]:
    """Yield the lines of one verb: what it does, its usage, its options and examples."""
    arguments = [it for it in verb.params if it.param_type_name == "argument"]
    names = [it.metavar if it.required else f"[{it.metavar}]" for it in arguments]
    usage = " ".join([context.command_path, "[OPTIONS]", *names])
    yield from (f"## {context.command_path}", "", escaped(verb.help or ""), "")
    yield from ("```text", usage, "```", "")
    yield from options(verb, context)
    yield from ("**Examples**", "", "```text", *(verb.epilog or "").splitlines(), "```", "")


def options(command: Any, context: Any) -> Iterator[str]:
    """Yield the lines of a command's arguments and options, under their headings."""
    for heading, records in records_by_heading(command.get_params(context), context).items():
        yield from (f"**{heading}**", "")
        yield from (f"- `{names}`: {escaped(text)}" for names, text in records)
        yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
