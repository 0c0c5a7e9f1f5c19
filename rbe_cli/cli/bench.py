"""`rbe bench`: how fast the layers, or a compressed model, run on this machine."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rbe_cli.cli.bench_report import BenchFormat, Report
from rbe_cli.cli.numbers import byte_count, whole
from rbe_cli.cli.options import (
    SPEED,
    WRITING,
    Activations,
    Force,
    KvType,
    Offline,
    Quiet,
    Threads,
    Verbose,
)
from rbe_cli.cli.output import Output
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rbe_cli.bench.model_start import ModelOptions

EXAMPLES = """\
rbe bench --shape 8x256x768 --op linear
rbe bench --model gpt2.rbe --model gpt2-small.rbe --format md
rbe bench --model gpt2.rbe --prompt-tokens 100 --max-tokens 200 --format json"""
_LAYERS = "Layers"  # headings of the help
_MODEL = "A compressed model"
_DEFAULT_SECONDS = 50


class Op(StrEnum):
    """Which layers are timed."""

    layernorm = "layernorm"
    linear = "linear"
    feedforward = "feedforward"
    attention = "attention"
    block = "block"
    all = "all"


class Variant(StrEnum):
    """How the layers are computed."""

    fused = "fused"
    standard = "standard"
    mixed = "mixed"
    reference = "reference"
    all = "all"


class Backend(StrEnum):
    """What the kernels run on."""

    cpu = "cpu"


def bench(
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BATCHxSEQxDIM",
            rich_help_panel=_LAYERS,
            help="Time layers on inputs of this shape. Repeatable. The default is 32x64x768, "
            "16x128x1024, 8x256x2048 and 4x512x4096.",
        ),
    ] = None,
    op: Annotated[
        Op | None,
        typer.Option(
            metavar="layernorm|linear|feedforward|attention|block|all",
            rich_help_panel=_LAYERS,
            help="Time this layer, with random 8-bit weights. The default is all.",
        ),
    ] = None,
    variant: Annotated[
        Variant | None,
        typer.Option(
            metavar="fused|standard|mixed|reference|all",
            rich_help_panel=_LAYERS,
            help="Choose how layers are computed: with the compiled kernels (fused), with float32 "
            "weights and one pass for each step (standard), with float16 activations (mixed), or "
            "with plain numpy on all its threads (reference). The default is all.",
        ),
    ] = None,
    backward: Annotated[
        bool,
        typer.Option(
            "--backward", rich_help_panel=_LAYERS, help="Time the backward passes of layers."
        ),
    ] = False,
    max_memory: Annotated[
        int | None,
        typer.Option(
            parser=byte_count,
            metavar="SIZE",
            rich_help_panel=_LAYERS,
            help="Limit the activations that a block or a feed-forward layer holds at once.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.rbe",
            rich_help_panel=_MODEL,
            help="Time a compressed model: a file, or one on the hub. Repeatable: several take "
            "turns. Layers are then timed only if one of their options is given.",
        ),
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            parser=whole(1),
            metavar="N",
            rich_help_panel=_MODEL,
            help="Time a prompt of N tokens. The default is 512, or less if the context is short.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            parser=whole(1),
            metavar="N",
            rich_help_panel=_MODEL,
            help="Decode N tokens. The default is 128, or less if the context is short or the "
            "model slow.",
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            parser=whole(0),
            metavar="N",
            rich_help_panel=_MODEL,
            help="Begin with N tokens in the cache. The default is 0.",
        ),
    ] = None,
    kv_type: Annotated[
        KvType | None,
        typer.Option(
            metavar="fp32|fp16|int8",
            rich_help_panel=_MODEL,
            help="Store keys and values in this form. The default is fp16.",
        ),
    ] = None,
    activations: Annotated[
        Activations | None,
        typer.Option(
            metavar="auto|8|16",
            rich_help_panel=_MODEL,
            help="Round the activations of a prompt to this many bits. The default is auto.",
        ),
    ] = None,
    repeat: Annotated[
        int | None,
        typer.Option(
            parser=whole(1),
            metavar="N",
            rich_help_panel=SPEED,
            help="Call each layer or model N times. By default each is called at least 3 times "
            "and for half a second, and not again after two seconds.",
        ),
    ] = None,
    max_seconds: Annotated[
        int | None,
        typer.Option(
            parser=whole(1),
            metavar="N",
            rich_help_panel=SPEED,
            help="Leave out the layers that do not fit into N seconds together. The default is "
            "50, and no limit with --shape or --repeat.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=WRITING,
            help="Draw the result into this .png or .svg file (pip install 'rbe-cli[plot]').",
        ),
    ] = None,
    force: Force = False,
    backend: Annotated[
        Backend,
        typer.Option(metavar="cpu", rich_help_panel=SPEED, help="Choose what the kernels run on."),
    ] = Backend.cpu,
    threads: Threads = None,
    offline: Offline = False,
    format: Annotated[
        BenchFormat,
        typer.Option(
            metavar="human|json|jsonl|md|csv|quiet",
            help="Choose the form of the results on stdout.",
        ),
    ] = BenchFormat.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Time layers, or a compressed model, on this machine."""
    from rbe_cli.bench import operator_cases, operator_shapes, operators
    from rbe_cli.bench.bench_run import Bench
    from rbe_cli.cli.charts import check_picture, draw_bench
    from rbe_cli.container.find_file import find_rbe

    out = Output(format.shared, quiet, verbose)
    if plot is not None:
        check_picture(plot, force=force)
    shapes = [operator_shapes.Shape.parse(text) for text in shape or ()]
    if max_seconds is None and not shapes and repeat is None:
        max_seconds = _DEFAULT_SECONDS
    if not shapes and (not model or op or variant or backward):
        shapes = list(operator_shapes.DEFAULT_SHAPES)
    ops = [operator_shapes.Op(op)] if op and op is not Op.all else list(operator_shapes.Op)
    variants = list(operator_cases.Variant)
    if variant and variant is not Variant.all:
        variants = [operator_cases.Variant(variant)]
    layers = operators.LayerOptions(
        shapes, ops, variants, backward, max_memory, repeat, max_seconds
    )
    with out.progress() as progress:
        paths = [find_rbe(name, offline=offline, progress=progress) for name in model or ()]
    models = _model_options(paths, prompt_tokens, max_tokens, depth, kv_type, activations)

    def progress_line(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 0:  # no bars: rows are printed meanwhile
            out.note(f"{stage} ...")

    rows = Bench(layers, models, threads, progress_line)
    report = Report(out, format, len(models), bool(shapes))
    begun = False
    try:
        for row in rows:
            if not begun:  # what cannot be timed at all is an error without any result
                report.begin(rows.result.machine)
                begun = True
            report.row(row)
    except KeyboardInterrupt:
        report.end(rows.result)
        raise
    report.end(rows.result)
    if plot is not None:
        draw_bench(rows.result, plot, force=force)


def _model_options(
    paths: list[Path],
    prompt_tokens: int | None,
    max_tokens: int | None,
    depth: int | None,
    kv_type: KvType | None,
    activations: Activations | None,
) -> "list[ModelOptions]":
    from rbe_cli.bench.model_start import ModelOptions
    from rbe_cli.engine.session import DEFAULT_ACTIVATION_BITS, DEFAULT_KV_TYPE

    if paths:
        kept_as = kv_type.value if kv_type else DEFAULT_KV_TYPE
        rounded_to = activations.value if activations else DEFAULT_ACTIVATION_BITS
        tokens = (prompt_tokens, max_tokens, depth or 0)
        return [ModelOptions(path, *tokens, kept_as, rounded_to) for path in paths]
    given = {
        "--prompt-tokens": prompt_tokens,
        "--max-tokens": max_tokens,
        "--depth": depth,
        "--kv-type": kv_type,
        "--activations": activations,
    }
    for flag, value in given.items():
        if value is not None:
            raise UsageError(f"{flag} belongs to --model")
    return []
