"""Options that several verbs share, declared once."""

from pathlib import Path
from typing import Annotated

import typer

from rbe_cli.choices import Backend
from rbe_cli.cli.numbers import MAX_SEED, MAX_THREADS, whole
from rbe_cli.cli.output import Format

# Headings in help texts that several verbs have.
INPUT = "Input"
SPEED = "Memory and speed"
WRITING = "Output file"


RbeFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE.rbe",
        help="The compressed model: a file, or org/name[/FILE.rbe][@revision] on the hub.",
        show_default=False,
    ),
]
TextFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        "-f",
        metavar="FILE",
        rich_help_panel=INPUT,
        help="Read the text from this UTF-8 file, or from stdin if it is -. A byte-order mark "
        "and the last line's end are not part of the text.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--tokens",
        metavar="FILE",
        rich_help_panel=INPUT,
        help="Read token ids instead of text: a .npy array, or a text file with one sequence of "
        "space-separated ids a line.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        parser=whole(0, MAX_SEED),
        metavar="N",
        help="Repeat a text: the same seed gives the same tokens. The default is a random seed, "
        "which is reported.",
        rich_help_panel="Sampling",
    ),
]
BackendOption = Annotated[
    Backend,
    typer.Option(
        "--backend",
        metavar="cpu|cuda",
        rich_help_panel=SPEED,
        help="Compute on the CPU, or on an NVIDIA GPU (pip install 'rbe-cli[cuda]'), which was "
        "tested in a simulator only.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        parser=whole(1, MAX_THREADS),
        metavar="N",
        rich_help_panel=SPEED,
        help="Compute with this many threads. The default is the number of physical cores.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", rich_help_panel=WRITING, help="Replace the output if it exists."),
]
FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        metavar="human|json|jsonl|quiet",
        help="Choose the form of the results on stdout.",
    ),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never use the network; take models from the cache.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Write nothing but errors to stderr.")]
