"""Bench: a compressed model, the layers of a transformer block, or both."""

from dataclasses import asdict, dataclass
from typing import Any

from rbe_cli.kernels.table import load_kernels
from rbe_cli.progress import Progress, no_progress
from rbe_cli.tasks.bench_layers import LayerOptions, LayerTiming, time_layers
from rbe_cli.tasks.bench_model import ModelOptions, ModelTiming, time_model
from rbe_cli.tasks.machine import Machine, this_machine


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


def bench(
    layers: LayerOptions,
    model: ModelOptions | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> BenchResult:
    """Time the model, then the layers, so that its peak memory is not theirs.

    Args:
        layers: which.
        model: which; None for layers alone.
        threads: of the compiled kernels; None for the physical cores.
        progress: told what is timed.

    Raises:
        UsageError: the number of threads, a shape or the model's tokens cannot be used.
        NotFoundError, BadFileError: the model cannot be loaded.
    """
    fast = load_kernels("fast", threads)
    timing = time_model(model, fast, layers.repeat, progress) if model else None
    results = time_layers(layers, fast, progress)
    return BenchResult(this_machine(fast.threads), results, timing)
