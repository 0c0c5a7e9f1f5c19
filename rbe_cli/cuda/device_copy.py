"""Measure how fast a GPU moves memory, which is the bound of decoding there."""

import numpy as np
from numba import cuda


class DeviceCopy:
    """Move the same bytes again and again: half of them are read, and half are written.

    Args:
        size: bytes that a call moves.
    """

    def __init__(self, size: int) -> None:
        half = max(size // 2, 1)
        self._from = cuda.to_device(np.ones(half, np.uint8))
        self._to = cuda.device_array(half, np.uint8)

    def __call__(self) -> None:
        """Copy once, and wait for the end."""
        self._to.copy_to_device(self._from)
        cuda.synchronize()
