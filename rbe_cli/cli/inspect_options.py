"""The options of `rbe inspect`, in the order and under the headings of its help."""

from typing import Annotated

import typer

_SHOWN = "What is shown"

Tensors = Annotated[
    bool,
    typer.Option("--tensors", rich_help_panel=_SHOWN, help="List every tensor."),
]
Plot = Annotated[
    str | None,
    typer.Option(
        "--plot",
        metavar="[FILE]",
        rich_help_panel=_SHOWN,
        help="Draw the bits a weight of every tensor as a bar chart: as text, or into this "
        ".png or .svg file (pip install 'rbe-cli[plot]').",
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        rich_help_panel=_SHOWN,
        help="Check every checksum and decode every tensor.",
    ),
]
Diff = Annotated[
    str | None,
    typer.Option(
        "--diff",
        metavar="OTHER.rbe",
        rich_help_panel=_SHOWN,
        help="Compare with this file: config, rates, and the relative error of each tensor.",
    ),
]
