"""Cut a matrix into blocks, and order a block's columns along the trellis."""

import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS = 1024  # of a block
SEGMENT = 32  # columns that the trellis search decides at once


def column_blocks(columns: int) -> list[slice]:
    """Return the fewest blocks of at most `MAX_COLUMNS` columns, their widths equal within one."""
    count = -(-columns // MAX_COLUMNS)
    return [slice(i * columns // count, (i + 1) * columns // count) for i in range(count)]


def trellis_order(width: int) -> NDArray[np.int64]:
    """Return column indices in the order in which a block's rows are written, int64 `[width]`.

    Neighbours of the matrix come to lie in different segments, as segments take every
    `stride`-th column: those of the same attention head, whose errors make up for each other
    best, are then not decided together.
    """
    stride = -(-width // SEGMENT)
    return np.concatenate([np.arange(first, width, stride) for first in range(stride)])
