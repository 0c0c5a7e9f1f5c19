"""Bench: a compressed model, the layers of a transformer block, or both."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rbe_cli.kernels.table import load_kernels
from rbe_cli.progress import Progress, no_progress
from rbe_cli.tasks.bench_layers import LayerTiming, Variant, time_layers
from rbe_cli.tasks.bench_model import ModelOptions, ModelTiming, time_model
from rbe_cli.tasks.bench_shape import Op, Shape
from rbe_cli.tasks.machine import Machine, this_machine


@dataclass(frozen=True)
class BenchOptions:
    """What to time.

    Attributes:
        shapes, ops, variants: of the layers: every combination.
        model: of a model; None for layers alone.
        repeat: calls of each; None as in `timing.time_in_turn`.
        threads: of the fused kernels and the model; None for the physical cores.
    """

    shapes: Sequence[Shape] = ()
    ops: Sequence[Op] = tuple(Op)
    variants: Sequence[Variant] = tuple(Variant)
    model: ModelOptions | None = None
    repeat: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class BenchResult:
    """What was measured; `model` is None if there was none."""

    machine: Machine
    results: list[LayerTiming]
    model: ModelTiming | None

    def record(self) -> dict[str, Any]:
        """The result under the contract's names, where a model's fields stand at the top."""
        record = {"machine": asdict(self.machine), "results": [asdict(r) for r in self.results]}
        return record | (asdict(self.model) if self.model else {})


def bench(options: BenchOptions, progress: Progress = no_progress) -> BenchResult:
    """Time the model, then the layers, so that its peak memory is not theirs.

    Raises:
        UsageError: the number of threads, a shape or the model's tokens cannot be used.
        NotFoundError, BadFileError: the model cannot be loaded.
    """
    fast = load_kernels("fast", options.threads)
    model = time_model(options.model, fast, options.repeat, progress) if options.model else None
    tables = {Variant.fused: fast, Variant.reference: load_kernels("reference")}
    kernels = {variant: tables[variant] for variant in options.variants}
    results = time_layers(options.shapes, options.ops, kernels, options.repeat, progress)
    return BenchResult(this_machine(fast.threads), results, model)
