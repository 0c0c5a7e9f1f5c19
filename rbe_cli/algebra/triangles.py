"""Store triangular matrices without the half that is zero."""

import numpy as np

from rbe_cli.runtime.arrays import Float32

_ROWS = 128  # that are stored together, up to the last of their columns


def packed_lower(matrix: Float32) -> Float32:
    """Return what is below and on the diagonal of a matrix `[n, n]`, and little more, `[m]`."""
    size = len(matrix)
    parts = [matrix[start : start + _ROWS, : start + _ROWS] for start in range(0, size, _ROWS)]
    return np.concatenate([np.zeros(0, np.float32), *(part.reshape(-1) for part in parts)])


def unpacked_lower(values: Float32, size: int) -> Float32:
    """Return the lower triangular matrix `[size, size]` that `packed_lower` stored."""
    matrix, taken = np.zeros((size, size), np.float32), 0
    for start in range(0, size, _ROWS):
        part = matrix[start : start + _ROWS, : start + _ROWS]
        part[:] = values[taken : taken + part.size].reshape(part.shape)
        taken += part.size
    return matrix
