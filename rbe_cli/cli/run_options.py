"""The options of `rbe run`, in the order and under the headings of its help."""

from pathlib import Path
from typing import Annotated

import typer

from rbe_cli.choices import Engine
from rbe_cli.cli.numbers import whole
from rbe_cli.cli.options import SPEED, WRITING

_MEASURED = "Measurements"

Text = Annotated[
    str | None,
    typer.Argument(
        metavar="[TEXT]",
        show_default=False,
        help="The input; - reads it from stdin. A text that begins with - goes after a -- of "
        "its own.",
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        parser=whole(0),
        metavar="K",
        rich_help_panel=_MEASURED,
        help="Show the K likeliest next tokens.",
    ),
]
Logprobs = Annotated[
    bool,
    typer.Option(
        "--logprobs",
        rich_help_panel=_MEASURED,
        help="Show the log-probability of each token of the input, and its rank among all tokens.",
    ),
]
Perplexity = Annotated[
    bool,
    typer.Option(
        "--perplexity",
        rich_help_panel=_MEASURED,
        help="Measure the perplexity over the whole input, however long it is. The last "
        "line's end is then part of the text.",
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        parser=whole(2),
        metavar="N",
        rich_help_panel=_MEASURED,
        help="With --perplexity, cut the input into windows of N tokens. The default is the "
        "model's context.",
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        parser=whole(1),
        metavar="N",
        rich_help_panel=_MEASURED,
        help="With --perplexity, begin a window every N tokens. The default is the length of "
        "a window.",
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        rich_help_panel=_MEASURED,
        help="Compare with this checkpoint, in float32, or with this .rbe file: KL divergence, "
        "perplexity, and the error of each layer's output.",
    ),
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        rich_help_panel=_MEASURED,
        help="Measure the time and the memory of each layer's parts.",
    ),
]
Logits = Annotated[
    Path | None,
    typer.Option(metavar="OUT.npy", rich_help_panel=WRITING, help="Write the logits to this file."),
]
Hidden = Annotated[
    Path | None,
    typer.Option(
        metavar="OUT.npz",
        rich_help_panel=WRITING,
        help="Write the output of each block to this file.",
    ),
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        metavar="fast|reference",
        rich_help_panel=SPEED,
        help="Compute with compiled kernels (fast) or with plain numpy (reference).",
    ),
]
