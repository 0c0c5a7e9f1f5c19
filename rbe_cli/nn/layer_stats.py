"""Count what a layer's calls compute, how long they take and what memory they need."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

from rbe_cli.runtime.buffer_pool import BufferPool
from rbe_cli.runtime.traced_memory import traced_peak


@dataclass
class LayerStats:
    """Count a layer's forward passes, or its backward passes.

    Attributes:
        calls: how often the layer was called.
        operations: floating-point operations of all calls (nn/operation_counts.py).
        total_ns: nanoseconds of all calls.
        min_ns, max_ns: nanoseconds of the shortest and of the longest call.
        peak_memory_bytes: the most that a call had in use at once, its output included, beyond
            what was in use before it. It is 0 unless tracemalloc traces.
    """

    calls: int = 0
    operations: int = 0
    total_ns: int = 0
    min_ns: int = 0
    max_ns: int = 0
    peak_memory_bytes: int = 0

    @property
    def average_ns(self) -> float:
        """Return the nanoseconds of an average call."""
        return self.total_ns / self.calls if self.calls else 0.0

    @property
    def average_operations(self) -> float:
        """Return the floating-point operations of an average call."""
        return self.operations / self.calls if self.calls else 0.0

    @property
    def gflops(self) -> float:
        """Return 1e9 floating-point operations a second, over all calls."""
        return self.operations / self.total_ns if self.total_ns else 0.0

    @contextmanager
    def measured(self, operations: int, buffers: BufferPool) -> Iterator[None]:
        """Count what is done within the context as one call, unless it raises.

        Args:
            operations: floating-point operations of the call.
            buffers: lends memory to the layer.
        """
        with traced_peak(buffers) as peak:
            start = perf_counter_ns()
            yield
            self._add(perf_counter_ns() - start, operations)
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak.peak_bytes)

    def _add(self, duration: int, operations: int) -> None:
        self.min_ns = min(self.min_ns, duration) if self.calls else duration
        self.max_ns = max(self.max_ns, duration)
        self.calls += 1
        self.total_ns += duration
        self.operations += operations
