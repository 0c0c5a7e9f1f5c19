"""Measure the memory that a piece of work needs at most, with tracemalloc.

What counts is memory that is in use: what Python and numpy have allocated beyond what was there
before. Memory that a buffer pool keeps for later is not in use, so the pool keeps none while a
measurement runs. Without that, the first borrower would seem to need more than the others.
Work areas of numpy's BLAS library are not seen.
"""

import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rbe_cli.runtime.buffer_pool import BufferPool


@dataclass
class TracedPeak:
    """Hold what a measurement found.

    Attributes:
        peak_bytes: the most that was in use at once beyond what was before; 0 if tracemalloc
            did not trace.
    """

    peak_bytes: int = 0


class _OpenMeasurements(threading.local):
    """Hold the highest totals of this thread's open measurements, the innermost last."""

    def __init__(self) -> None:
        self.highest: list[int] = []


_open = _OpenMeasurements()


@contextmanager
def traced_peak(buffers: BufferPool) -> Iterator[TracedPeak]:
    """Measure what is done within the context; measurements may lie within each other.

    Args:
        buffers: lends memory to what is measured.
    """
    found = TracedPeak()
    if not tracemalloc.is_tracing():
        yield found
        return
    highest = _open.highest
    with buffers.keeping_nothing():
        _note_peak(highest)
        before = tracemalloc.get_traced_memory()[0]
        highest.append(before)
        try:
            yield found
        finally:
            _note_peak(highest)
            own = highest.pop()
            found.peak_bytes = own - before
            if highest:
                highest[-1] = max(highest[-1], own)


def _note_peak(highest: list[int]) -> None:
    """Tell the innermost measurement of the peak so far, and begin a new one."""
    if highest:
        highest[-1] = max(highest[-1], tracemalloc.get_traced_memory()[1])
    tracemalloc.reset_peak()
