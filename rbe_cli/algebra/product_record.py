"""Define what the program of products is told, as a record (product_program.py)."""

import numpy as np

_INT = np.int64

PRODUCT = np.dtype(
    [
        ("a", _INT),  # addresses of float32 or float64 [items, rows, steps],
        ("b", _INT),  # [items, steps, columns],
        ("c", _INT),  # and [items, rows, columns], written
        ("a_item", _INT),  # bytes between the matrices of an array
        ("b_item", _INT),
        ("c_item", _INT),
        ("a_row", _INT),  # bytes between the elements of a row, and so on
        ("a_step", _INT),
        ("b_step", _INT),
        ("b_column", _INT),
        ("c_row", _INT),
        ("items", _INT),
        ("rows", _INT),
        ("steps", _INT),
        ("columns", _INT),
        ("adds", _INT),  # whether the product is added to c
        ("scratch", _INT),  # address of scratch, [threads, scratch_bytes]
        ("scratch_bytes", _INT),
    ]
)
STEPS = 256  # that are multiplied before the next ones
GROUP_BYTES = 1024  # of a row of the second matrix that is kept in the cache
FEW_ROWS = 8  # for which copying the second matrix would take longer than it saves
ROWS = 120  # of the first matrix that are kept in the cache, a multiple of a tile's rows
_EDGE_BYTES = 12 * 128  # of the largest tile
SCRATCH_BYTES = STEPS * (GROUP_BYTES + 8 * ROWS) + _EDGE_BYTES
