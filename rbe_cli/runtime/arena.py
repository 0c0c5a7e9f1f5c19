"""Allocate memory for what every token reads completely: weights, keys and values.

In pages of 2 MB, where the system has such: with the usual 4 kB, looking up where pages lie costs a
sixth of the time of a token at 4 bits.
"""

import mmap

import numpy as np

from rbe_cli.runtime.arrays import PanelValues
from rbe_cli.runtime.fork_lock import ForkLock

_CHUNK_BYTES = 64 << 20  # asked for at once; the system gives what is written to
_LINE = 64


class Arena:
    """Give memory, one piece after the other; several threads may use it."""

    def __init__(self) -> None:
        self._guard = ForkLock(is_inner=True)
        self._chunk = mmap.mmap(-1, 1)
        self._used = 1

    def zeros(self, size: int) -> PanelValues:
        """Return that many zero bytes, after those that were taken before."""
        with self._guard:
            start = -(-self._used // _LINE) * _LINE
            if start + size > len(self._chunk):
                self._chunk, start = _chunk(max(_CHUNK_BYTES, size)), 0
            self._used = start + size
            return np.frombuffer(self._chunk, np.uint8, size, start)

    def give_back(self, size: int) -> None:
        """Take back the last bytes of what was taken last, which nobody has written to."""
        with self._guard:
            self._used -= size


def _chunk(size: int) -> mmap.mmap:
    chunk = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        chunk.madvise(mmap.MADV_HUGEPAGE)
    return chunk
