"""Keep memory for reuse, because the system maps and clears new memory page by page."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rbe_cli.runtime.arrays import Floating
from rbe_cli.runtime.fork_lock import ForkLock

_MOST_BYTES = 1 << 28


class BufferPool:
    """Lend arrays; arrays that came back are lent again, to any thread.

    Attributes:
        limit: bytes that are kept at most while nobody uses them.
    """

    def __init__(self, limit: int = _MOST_BYTES) -> None:
        self.limit = limit
        self._free: dict[int, list[NDArray[np.uint8]]] = {}  # by bytes
        self._lock = ForkLock(is_inner=True)

    def __reduce__(self) -> tuple[type["BufferPool"], tuple[int]]:
        """Return how another process makes a pool: without memory."""
        return BufferPool, (self.limit,)

    @property
    def nbytes(self) -> int:
        """Return the bytes that are kept at this moment."""
        return sum(size * len(own) for size, own in self._free.items())

    @contextmanager
    def borrow(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> Iterator[Floating]:
        """Lend an array of arbitrary values, for as long as the context lasts."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        with self._lock:
            own = self._free.get(size)
            memory = own.pop() if own else None
        if memory is None:
            memory = np.empty(size, np.uint8)
        try:
            yield memory.view(dtype).reshape(shape)
        finally:
            with self._lock:
                if self.nbytes + size <= self.limit:
                    self._free.setdefault(size, []).append(memory)

    @contextmanager
    def keeping_nothing(self) -> Iterator[None]:
        """Give all free memory back, and keep none within the context."""
        limit, self.limit = self.limit, 0
        self.clear()
        try:
            yield
        finally:
            self.limit = limit

    def clear(self) -> None:
        """Give all memory back that nobody uses."""
        with self._lock:
            self._free.clear()
