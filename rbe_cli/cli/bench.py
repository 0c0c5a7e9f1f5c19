"""`rbe bench`: how fast the layers, or a compressed model, run on this machine."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rbe_cli.cli.numbers import byte_count, whole
from rbe_cli.cli.options import (
    SPEED,
    Activations,
    FormatOption,
    KvType,
    Offline,
    Quiet,
    Threads,
    Verbose,
)
from rbe_cli.cli.output import Format, Output, drawable, facts, size, table
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.tasks.bench import BenchResult
    from rbe_cli.tasks.bench_layers import LayerTiming
    from rbe_cli.tasks.bench_model import ModelOptions, ModelTiming, Spread
    from rbe_cli.tasks.machine import Machine

EXAMPLES = """\
rbe bench --shape 8x256x768 --op linear
rbe bench --model gpt2.rbe
rbe bench --model gpt2.rbe --prompt-tokens 100 --max-tokens 200 --format json"""
_LAYERS = "Layers"  # headings of the help
_MODEL = "A compressed model"


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
        str | None,
        typer.Option(
            metavar="FILE.rbe",
            rich_help_panel=_MODEL,
            help="Time a compressed model: a file, or one on the hub. Layers are then timed only "
            "if one of their options is given.",
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
            help="Decode N tokens. The default is 128, or less if the context is short.",
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
    backend: Annotated[
        Backend,
        typer.Option(metavar="cpu", rich_help_panel=SPEED, help="Choose what the kernels run on."),
    ] = Backend.cpu,
    threads: Threads = None,
    offline: Offline = False,
    format: FormatOption = Format.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Time layers, or a compressed model, on this machine."""
    from rbe_cli.container.locate import find_rbe
    from rbe_cli.tasks import bench as task
    from rbe_cli.tasks import bench_cases, bench_layers, bench_shape

    out = Output(format, quiet, verbose)
    shapes = [bench_shape.Shape.parse(text) for text in shape or ()]
    if not shapes and (model is None or op or variant or backward):
        shapes = list(bench_shape.DEFAULT_SHAPES)
    ops = [bench_shape.Op(op)] if op and op is not Op.all else list(bench_shape.Op)
    variants = list(bench_cases.Variant)
    if variant and variant is not Variant.all:
        variants = [bench_cases.Variant(variant)]
    layers = bench_layers.LayerOptions(shapes, ops, variants, backward, max_memory, repeat)
    with out.progress() as progress:
        path = None if model is None else find_rbe(model, offline=offline, progress=progress)
        timed = _model_options(path, prompt_tokens, max_tokens, depth, kv_type, activations)
        result = task.bench(layers, timed, threads, progress)
    out.result(result.record(), lambda console: _show(console, result))


def _model_options(
    model: Path | None,
    prompt_tokens: int | None,
    max_tokens: int | None,
    depth: int | None,
    kv_type: KvType | None,
    activations: Activations | None,
) -> "ModelOptions | None":
    from rbe_cli.engine.session import DEFAULT_ACTIVATIONS, DEFAULT_KV_TYPE
    from rbe_cli.tasks.bench_model import ModelOptions

    if model is not None:
        kept_as = kv_type.value if kv_type else DEFAULT_KV_TYPE
        rounded_to = activations.value if activations else DEFAULT_ACTIVATIONS
        return ModelOptions(model, prompt_tokens, max_tokens, depth or 0, kept_as, rounded_to)
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
    return None


def _show(console: "Console", result: "BenchResult") -> None:
    console.print(_machine(result.machine))
    if result.model:
        console.print()
        console.print(_model(result.model))
    if result.results:
        times = ("median", "min", "max", "calls")
        columns = ("op", "variant", "shape", *times, "GFLOP/s", "GB/s", "memory")
        console.print(table("", columns, [_row(timing) for timing in result.results]))


def _machine(machine: "Machine") -> object:
    return facts(
        [
            ("processor", f"{machine.cpu} ({machine.platform})"),
            ("threads", f"{machine.threads} of {machine.logical_cores} processors"),
            ("memory", size(machine.memory_bytes)),
            (
                "software",
                f"Python {machine.python}, numpy {machine.numpy}, numba {machine.numba}",
            ),
        ]
    )


def _model(timing: "ModelTiming") -> object:
    return facts(
        [
            ("prefill", _rate(timing.prefill_tokens_per_second, timing.prefill_spread)),
            ("decode", _rate(timing.decode_tokens_per_second, timing.decode_spread)),
            ("load", _seconds(timing.load_seconds)),
            ("first token", _seconds(timing.time_to_first_token_seconds)),
            ("peak memory", size(timing.peak_rss_bytes)),
            ("read per token", size(timing.bytes_per_token)),
            (
                "memory reads",
                f"{timing.read_bytes_per_second / 1e9:.1f} GB/s, of which decoding reaches "
                f"{timing.bandwidth_share:.0%}",
            ),
        ]
    )


def _rate(median: float, spread: "Spread") -> str:
    return f"{median:.1f} tokens/s ({spread.min:.1f} to {spread.max:.1f})"


def _row(timing: "LayerTiming") -> tuple[str, ...]:
    return (
        f"{timing.op}, backward" if timing.backward else timing.op,
        timing.variant,
        timing.shape,
        _seconds(timing.median_seconds),
        _seconds(timing.min_seconds),
        _seconds(timing.max_seconds),
        str(timing.iterations),
        f"{timing.gflops:.2f}",
        f"{timing.gbytes_per_second:.2f}",
        size(timing.peak_memory_bytes),
    )


def _seconds(seconds: float) -> str:
    """With a unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 1e-3:
        return f"{1e3 * seconds:.2f} ms"
    return f"{1e6 * seconds:.2f} {drawable('µs', 'us')}"
