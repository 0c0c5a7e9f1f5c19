"""Help texts: options under plain headings, and examples at the end.

The headings come from `rich_help_panel` of each option. Rich itself does not draw them, because
importing it would double the time that `rbe --help` takes.
"""

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

_COMMON = "Common options"  # of options without a heading of their own


class Verb(TyperCommand):
    """Show help with grouped options, and an epilog of examples, one a line."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_groups(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        write_examples(self.epilog, formatter)


def records_by_heading(parameters: Iterable[Any], ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Return each heading's records of a name and a help text.

    Arguments come first, then the headings in the order of the options; the common options come
    last. Hidden parameters are left out.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    common: list[tuple[str, str]] = []
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is None:  # the parameter is hidden
            continue
        if parameter.param_type_name == "argument":
            groups.setdefault("Arguments", []).append(record)
        elif heading := getattr(parameter, "rich_help_panel", None):
            groups.setdefault(heading, []).append(record)
        else:
            common.append(record)
    return {**groups, _COMMON: common}


def write_groups(parameters: Iterable[Any], ctx: Any, formatter: Any) -> None:
    """Write the records of parameters under their headings."""
    for heading, records in records_by_heading(parameters, ctx).items():
        with formatter.section(heading):
            formatter.write_dl(records, col_max=24)


def write_examples(lines: str | None, formatter: Any) -> None:
    """Write the lines as they are: a command that is wrapped can no longer be copied."""
    if lines:
        with formatter.section("Examples"):
            for line in lines.splitlines():
                formatter.write(f"  {line}\n" if line else "\n")
