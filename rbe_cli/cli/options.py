"""Options that several verbs share, declared once."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rbe_cli.cli.output import Format


class KvType(StrEnum):
    """How keys and values are kept."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Activations(StrEnum):
    """Bits that a prompt's activations are rounded to."""

    auto = "auto"
    coarse = "8"
    fine = "16"


RbeFile = Annotated[Path, typer.Argument(metavar="FILE.rbe", help="A compressed model.")]
FormatOption = Annotated[
    Format, typer.Option("--format", help="How results appear on stdout.", show_default=True)
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show where an error comes from.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress or notes on stderr.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads; default: the physical cores.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of every random choice.")]
TextFile = Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from a file.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--tokens", help="Token ids: .npy, or text with one sequence a line."),
]
