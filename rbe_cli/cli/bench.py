"""`rbe bench`: how fast the layers, or a compressed model, run on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rbe_cli.backends import check_backend
from rbe_cli.bench.operator_names import (
    Op,
    Variant,
    check_supported,
    supported_ops,
    supported_variants,
)
from rbe_cli.choices import ActivationBits, Backend, KvType
from rbe_cli.cli import bench_options as options
from rbe_cli.cli.bench_report import BenchFormat, Report
from rbe_cli.cli.options import (
    BackendOption,
    Force,
    Offline,
    Quiet,
    Threads,
    Verbose,
)
from rbe_cli.cli.output import Output
from rbe_cli.errors import Terminated, UsageError

if TYPE_CHECKING:
    from rbe_cli.bench.model_start import ModelOptions

EXAMPLES = """\
rbe bench --shape 8x256x768 --op linear
rbe bench --model gpt2.rbe --model gpt2-small.rbe --format md
rbe bench --model gpt2.rbe --prompt-tokens 100 --max-tokens 200 --format json"""
_DEFAULT_SECONDS = 50


def bench(
    shape: options.ShapeOption = None,
    op: options.OpOption = None,
    variant: options.VariantOption = None,
    backward: options.Backward = False,
    max_memory: options.MaxMemory = None,
    model: options.Model = None,
    prompt_tokens: options.PromptTokens = None,
    max_tokens: options.MaxTokens = None,
    depth: options.Depth = None,
    kv_type: options.KvTypeOption = None,
    activations: options.ActivationsOption = None,
    repeat: options.Repeat = None,
    max_seconds: options.MaxSeconds = None,
    plot: options.Plot = None,
    force: Force = False,
    backend: BackendOption = "cpu",
    threads: Threads = None,
    offline: Offline = False,
    format: options.FormatOption = BenchFormat.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Time layers, or a compressed model, on this machine."""
    from rbe_cli.bench import operator_shapes, operators
    from rbe_cli.bench.bench_run import Bench
    from rbe_cli.cli.charts import check_picture, draw_bench
    from rbe_cli.container.find_file import find_rbe

    out = Output(format.shared, quiet, verbose)
    check_backend(backend, max_memory, activations, kv_type)
    if plot is not None:
        check_picture(plot, force=force)
    shapes = [operator_shapes.Shape.parse(text) for text in shape or ()]
    if max_seconds is None and not shapes and repeat is None:
        max_seconds = _DEFAULT_SECONDS
    if not shapes and (not model or op or variant or backward):
        shapes = list(operator_shapes.DEFAULT_SHAPES)
    ops, variants = _chosen(op, variant, backward, backend)
    layers = operators.LayerOptions(
        shapes, ops, variants, backward, max_memory, repeat, max_seconds, activations == "8",
        backend,
    )  # fmt: skip
    with out.progress() as progress:
        paths = [find_rbe(name, offline=offline, progress=progress) for name in model or ()]
    models = _model_options(paths, prompt_tokens, max_tokens, depth, kv_type, activations, backend)

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
    except (KeyboardInterrupt, Terminated):
        report.end(rows.result)
        raise
    report.end(rows.result)
    if plot is not None:
        draw_bench(rows.result, plot, force=force)


def _chosen(
    op: str | None, variant: str | None, backward: bool, backend: Backend
) -> tuple[Sequence[Op], Sequence[Variant]]:
    """Return the layers to time and the ways to compute them; by default all that exist."""
    ops, variants = supported_ops(backend, backward), supported_variants(backend, backward)
    if op not in (None, options.ALL):
        ops = (Op(op),)
    if variant not in (None, options.ALL):
        variants = (Variant(variant),)
    check_supported(backend, backward, ops, variants)
    return ops, variants


def _model_options(
    paths: list[Path],
    prompt_tokens: int | None,
    max_tokens: int | None,
    depth: int | None,
    kv_type: KvType | None,
    activations: ActivationBits | None,
    backend: Backend,
) -> "list[ModelOptions]":
    from rbe_cli.bench.model_start import ModelOptions
    from rbe_cli.engine.session import DEFAULT_ACTIVATION_BITS, DEFAULT_KV_TYPE

    if paths:
        kept_as = kv_type or DEFAULT_KV_TYPE
        rounded_to = activations or DEFAULT_ACTIVATION_BITS
        tokens = (prompt_tokens, max_tokens, depth or 0)
        return [ModelOptions(path, *tokens, kept_as, rounded_to, backend) for path in paths]
    given = {
        "--prompt-tokens": prompt_tokens,
        "--max-tokens": max_tokens,
        "--depth": depth,
        "--kv-type": kv_type,
    }
    for flag, value in given.items():
        if value is not None:
            raise UsageError(f"{flag} belongs to --model")
    return []
