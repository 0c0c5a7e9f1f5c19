"""The five verbs; each one's module is imported when the verb is used."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from rbe_cli.cli.help import Verb, write_examples, write_groups

_MODULES = {
    "compress": "compress",
    "inspect": "inspect",
    "run": "run_verb",
    "generate": "generate",
    "bench": "bench",
}
"""Verb -> the module that has its function, its `EXAMPLES` and, unless it is `Verb`, its `PARSER`,
a class of command."""


class LaterVerbs(Mapping[str, Any]):
    """The commands by their names; each is made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module = import_module(f"rbe_cli.cli.{_MODULES[name]}")
            verb = typer.Typer(add_completion=False, rich_markup_mode=None)
            parser = getattr(module, "PARSER", Verb)
            verb.command(name, cls=parser, epilog=module.EXAMPLES)(getattr(module, name))
            self._made[name] = typer.main.get_command(verb)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


class Verbs(TyperGroup):
    """Hold the verbs, and show the help of all of them in the form of a verb's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.commands: Any = LaterVerbs()

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        write_groups(self.get_params(ctx), ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        write_examples(self.epilog, formatter)
