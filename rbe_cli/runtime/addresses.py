"""Return addresses of arrays, for compiled programs that take no arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

LINE_BYTES = 64


def address(array: NDArray[np.generic]) -> int:
    """Return the address of an array's first element, in bytes."""
    # Not by `__array_interface__`, which loses a Ctrl-C: numpy clears errors while it describes
    # records.
    return int(array.ctypes.data)


def whole_lines(rows: int, size: int) -> NDArray[np.uint8]:
    """Return memory `[rows, size]` of arbitrary bytes that begins where a line of a cache does."""
    memory = np.empty(rows * size + LINE_BYTES, np.uint8)
    first = -address(memory) % LINE_BYTES
    return memory[first : first + rows * size].reshape(rows, size)


def float_address(array: NDArray[np.floating[Any]]) -> int:
    """Return the address of a float32 array whose elements lie one after the other.

    Raises:
        TypeError: it is of another type, which compiled kernels would misread, or in pieces.
    """
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise TypeError(f"compiled kernels take contiguous float32, not {array.dtype}")
    return address(array)
