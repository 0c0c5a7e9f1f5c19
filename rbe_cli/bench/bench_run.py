"""Time compressed models, the layers of a transformer block, or both."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rbe_cli.bench.machine_info import Machine, this_machine
from rbe_cli.bench.model_start import ModelOptions
from rbe_cli.bench.models import ModelTiming, time_models
from rbe_cli.bench.operators import LayerOptions, LayerTiming, LeftOut, time_layers
from rbe_cli.choices import Backend
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.progress import Progress, no_progress

Row = ModelTiming | LayerTiming | LeftOut


@dataclass
class BenchResult:
    """Hold what was measured so far."""

    machine: Machine
    models: list[ModelTiming] = field(default_factory=list)
    results: list[LayerTiming] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Add a row to its list."""
        if isinstance(row, ModelTiming):
            self.models.append(row)
        elif isinstance(row, LayerTiming):
            self.results.append(row)
        else:
            self.left_out.append(row)

    def record(self) -> dict[str, Any]:
        """Return the fields of docs/json.md; those of a single model stand at the top."""
        record: dict[str, Any] = {
            "machine": asdict(self.machine),
            "results": [asdict(row) for row in self.results],
        }
        if self.left_out:
            record["left_out"] = [asdict(row) for row in self.left_out]
        if self.models:
            record["models"] = [asdict(row) for row in self.models]
        return record | (asdict(self.models[0]) if len(self.models) == 1 else {})


class Bench:
    """Yield rows as they are measured, and keep all of them in `result`.

    Models come before layers, so that their peak memory is not that of the layers.
    """

    def __init__(
        self,
        layers: LayerOptions,
        models: Sequence[ModelOptions] = (),
        threads: int | None = None,
        progress: Progress = no_progress,
    ) -> None:
        """Prepare to time.

        Args:
            layers: which layers to time, and where.
            models: which models to time; with the same backend.
            threads: threads of the compiled kernels; None for the physical cores.
            progress: told what is timed.

        Raises:
            UsageError: the number of threads cannot be used.
        """
        self._layers, self._models, self._progress = layers, models, progress
        self._kernels = load_kernels("fast", threads)
        gpu = _gpu(layers.backend)
        self.result = BenchResult(this_machine(None if gpu else self._kernels.threads, gpu))

    def __iter__(self) -> Iterator[Row]:
        """Time one after the other.

        Raises:
            UsageError: a shape or a model's tokens cannot be used.
            NotFoundError, BadFileError: a model cannot be loaded.
        """
        for row in self._rows():
            self.result.add(row)
            yield row

    def _rows(self) -> Iterator[Row]:
        if self._models:
            yield from time_models(self._models, self._kernels, self._layers.repeat, self._progress)
        yield from time_layers(self._layers, self._kernels, self._progress)


def _gpu(backend: Backend) -> str | None:
    """Return the name of the GPU that computes, if one does."""
    if backend == "cpu":
        return None
    from rbe_cli.cuda.device import device_name

    return device_name()
