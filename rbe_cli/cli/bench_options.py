"""The options of `rbe bench`, in the order and under the headings of its help."""

from pathlib import Path
from typing import Annotated

import typer

from rbe_cli.bench.operator_names import Op, Variant
from rbe_cli.choices import ActivationBits, KvType
from rbe_cli.cli.bench_report import BenchFormat
from rbe_cli.cli.numbers import byte_count, one_of, whole
from rbe_cli.cli.options import SPEED, WRITING

_LAYERS = "Layers"
_MODEL = "A compressed model"
ALL = "all"  # layers, or ways to compute them

ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="BATCHxSEQxDIM",
        rich_help_panel=_LAYERS,
        help="Time layers on inputs of this shape. Repeatable. The default is 32x64x768, "
        "16x128x1024, 8x256x2048 and 4x512x4096.",
    ),
]
OpOption = Annotated[
    str | None,
    typer.Option(
        parser=one_of(*Op, ALL),
        metavar="layernorm|linear|feedforward|attention|block|all",
        rich_help_panel=_LAYERS,
        help="Time this layer, with random 8-bit weights. The default is all.",
    ),
]
VariantOption = Annotated[
    str | None,
    typer.Option(
        parser=one_of(*Variant, ALL),
        metavar="fused|standard|mixed|reference|all",
        rich_help_panel=_LAYERS,
        help="Choose how layers are computed: with the compiled kernels (fused), with float32 "
        "weights and one pass for each step (standard), with float16 activations (mixed), or "
        "with plain numpy on all its threads (reference). On a GPU only fused and "
        "standard exist. The default is all.",
    ),
]
Backward = Annotated[
    bool,
    typer.Option("--backward", rich_help_panel=_LAYERS, help="Time the backward passes of layers."),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        parser=byte_count,
        metavar="SIZE",
        rich_help_panel=_LAYERS,
        help="Limit the activations that a block or a feed-forward layer holds at once.",
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE.rbe",
        rich_help_panel=_MODEL,
        help="Time a compressed model: a file, or one on the hub. Repeatable: several take "
        "turns. Layers are then timed only if one of their options is given.",
    ),
]
PromptTokens = Annotated[
    int | None,
    typer.Option(
        parser=whole(1),
        metavar="N",
        rich_help_panel=_MODEL,
        help="Time a prompt of N tokens. The default is 512, or less if the context is short.",
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        parser=whole(1),
        metavar="N",
        rich_help_panel=_MODEL,
        help="Decode N tokens. The default is 128, or less if the context is short or the "
        "model slow.",
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(
        parser=whole(0),
        metavar="N",
        rich_help_panel=_MODEL,
        help="Begin with N tokens in the cache. The default is 0.",
    ),
]
KvTypeOption = Annotated[
    KvType | None,
    typer.Option(
        metavar="fp32|fp16|int8",
        rich_help_panel=_MODEL,
        help="Store keys and values in this form. The default is fp16.",
    ),
]
ActivationsOption = Annotated[
    ActivationBits | None,
    typer.Option(
        metavar="auto|8|16",
        rich_help_panel=SPEED,
        help="Round activations to this many bits: those of a prompt, or those of layers with "
        "8-bit weights. The default is auto, which is 16 for layers.",
    ),
]
Repeat = Annotated[
    int | None,
    typer.Option(
        parser=whole(1),
        metavar="N",
        rich_help_panel=SPEED,
        help="Call each layer or model N times. By default each is called at least 3 times "
        "and for half a second, and not again after two seconds.",
    ),
]
MaxSeconds = Annotated[
    int | None,
    typer.Option(
        parser=whole(1),
        metavar="N",
        rich_help_panel=SPEED,
        help="Leave out the layers that do not fit into N seconds together. The default is "
        "50, and no limit with --shape or --repeat.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=WRITING,
        help="Draw the result into this .png or .svg file (pip install 'rbe-cli[plot]').",
    ),
]
FormatOption = Annotated[
    BenchFormat,
    typer.Option(
        metavar="human|json|jsonl|md|csv|quiet",
        help="Choose the form of the results on stdout.",
    ),
]
