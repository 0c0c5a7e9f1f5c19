"""Cut a matrix into blocks of columns, and order the columns of a block along the trellis."""

import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS = 1024  # per block
SEGMENT = 32  # columns that one trellis search decides together


def column_blocks(columns: int) -> list[slice]:
    """Return the fewest blocks of at most `MAX_COLUMNS` columns, with nearly equal widths."""
    count = -(-columns // MAX_COLUMNS)
    return [slice(i * columns // count, (i + 1) * columns // count) for i in range(count)]


def trellis_order(width: int) -> NDArray[np.int64]:
    """Return the order in which the columns of a block are quantised, int64 `[width]`.

    A segment takes every `stride`-th column, so that neighbouring columns are in different
    segments. Neighbouring columns often belong to the same attention head, and can then correct
    each other's errors, which columns of the same segment cannot.
    """
    stride = -(-width // SEGMENT)
    return np.concatenate([np.arange(first, width, stride) for first in range(stride)])
