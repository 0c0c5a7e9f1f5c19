"""Compute in Python what the instructions of `inline_ptx` do, for Numba's simulator of CUDA.

The simulator runs each thread of a block as a thread of Python. What a warp does together is done
here with the block's barrier, so all threads of a block must call it equally often.
"""

from threading import current_thread
from typing import Any

import numpy as np

_LANES = 32


def fused(a: Any, b: Any, c: Any) -> Any:
    """Return a b + c of float32 numbers, rounded once (but for double rounding in rare cases)."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


def add_products(a: Any, b: Any, total: Any) -> Any:
    """Return total plus the products of the four signed bytes of two words (uint32)."""
    return _int32(int(total) + int(_signed_bytes([a]) @ _signed_bytes([b])))


def multiply_tile(
    a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any, c2: Any, c3: Any
) -> tuple[Any, Any, Any, Any]:
    """Multiply tiles of signed bytes with a warp; see `inline_ptx.multiply_tile`."""
    thread: Any = current_thread()
    if not hasattr(thread._manager, "fragments"):
        thread._manager.fragments = {}
    fragments = thread._manager.fragments
    number = thread.thread_id
    fragments[number] = (a0, a1, a2, a3, b0, b1)
    thread.syncthreads()
    first, lane = number // _LANES * _LANES, number % _LANES
    row, column = lane // 4, 2 * (lane % 4)
    rows = [_row(fragments, first + 4 * row, (0, 2)), _row(fragments, first + 4 * row, (1, 3))]
    columns = [_row(fragments, first + 4 * (column + n), (4, 5)) for n in (0, 1)]
    thread.syncthreads()
    before = (c0, c1, c2, c3)
    products = [int(own @ other) for own in rows for other in columns]
    c0, c1, c2, c3 = (_int32(int(c) + p) for c, p in zip(before, products, strict=True))
    return c0, c1, c2, c3


def _row(fragments: dict[int, Any], first: int, registers: tuple[int, int]) -> Any:
    """Return 32 bytes of a row of the first tile, or of a column of the second one."""
    return _signed_bytes([fragments[first + t][own] for own in registers for t in range(4)])


def _signed_bytes(words: list[Any]) -> Any:
    return np.array(words, np.uint32).view(np.int8).astype(np.int64)


def _int32(value: int) -> Any:
    """Return a number as int32, without the bits above."""
    return np.int32((value + 2**31) % 2**32 - 2**31)
