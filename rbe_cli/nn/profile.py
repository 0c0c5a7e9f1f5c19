"""How long each part of a block takes, and the memory that it takes at most."""

import tracemalloc
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Literal, get_args

Part = Literal["ln_1", "attention", "ln_2", "feed_forward", "residual"]


@dataclass
class LayerProfile:
    """Describe one layer, summed over its forward passes, in the fields of docs/json.md.

    Attributes:
        layer: from 0.
        calls: forward passes.
        ln_1_ns, attention_ns, ln_2_ns, feed_forward_ns, residual_ns: nanoseconds of each part.
        total_ns: of all parts.
        peak_memory_bytes: that the layer had allocated at most above what there was before, as
            measured by tracemalloc; 0 unless that traces.
    """

    layer: int
    calls: int = 0
    ln_1_ns: int = 0
    attention_ns: int = 0
    ln_2_ns: int = 0
    feed_forward_ns: int = 0
    residual_ns: int = 0
    total_ns: int = 0
    peak_memory_bytes: int = 0
    _last: int = 0
    _before: int = 0

    def start(self) -> None:
        """A forward pass begins."""
        if tracemalloc.is_tracing():
            tracemalloc.reset_peak()
            self._before = tracemalloc.get_traced_memory()[0]
        self.calls += 1
        self._last = perf_counter_ns()

    def lap(self, part: Part) -> None:
        """A part of it is done."""
        now = perf_counter_ns()
        name = f"{part}_ns"
        setattr(self, name, getattr(self, name) + now - self._last)
        self.total_ns += now - self._last
        self._last = now

    def stop(self) -> None:
        """All of it is done."""
        if tracemalloc.is_tracing():
            peak = tracemalloc.get_traced_memory()[1] - self._before
            self.peak_memory_bytes = max(self.peak_memory_bytes, peak)

    def record(self) -> dict[str, int]:
        """Return the fields of docs/json.md."""
        names = ["layer", *(f"{part}_ns" for part in get_args(Part))]
        return {name: getattr(self, name) for name in (*names, "total_ns", "peak_memory_bytes")}


def ignore(part: Part) -> None:
    """The lap of those who do not profile."""
