"""Cut a matrix into blocks of columns, and order the columns of a block along the trellis."""

import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS = 1024  # per block
SEGMENT = 32  # columns that one trellis search decides together


def column_blocks(columns: int) -> list[slice]:
    """Return the fewest blocks of at most `MAX_COLUMNS` columns, with nearly equal widths."""
    count = -(-columns // MAX_COLUMNS)
    return [slice(i * columns // count, (i + 1) * columns // count) for i in range(count)]


def sorted_order(levels: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return the order in which the columns of a block are quantised, int64 `[B]`.

    Columns come by ascending levels, the logarithms of their integers' sizes, so that integers that
    lie together in memory take about as many bits. The columns of a segment come in the order of
    the matrix.
    """
    ranked = np.argsort(levels, kind="stable")
    segments = np.split(ranked, np.arange(SEGMENT, levels.size, SEGMENT))
    return np.concatenate([np.sort(segment) for segment in segments])


def strided_order(width: int) -> NDArray[np.int64]:
    """Return the order of the columns of a block in older files, int64 `[width]`.

    A segment takes every `stride`-th column, so that neighbouring columns are in different
    segments.
    """
    stride = -(-width // SEGMENT)
    return np.concatenate([np.arange(first, width, stride) for first in range(stride)])
