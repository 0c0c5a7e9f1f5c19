"""Describe a matrix in panels to compiled kernels: its addresses and lengths.

Lengths are counted in elements, strides in bytes. Who fills a record keeps the arrays behind its
addresses alive.
"""

import numpy as np

_INT = np.int64

MATRIX = np.dtype(
    [
        ("form", _INT),  # PACKED or FLOATS
        ("values", _INT),  # address of the tiles; of float32, [panels, rows, 16]
        ("starts", _INT),  # address of int64 [panels + 1], the panels' bytes
        ("layout", _INT),  # of all tiles, its place in panels.LAYOUTS; -1: mixed
        ("layouts", _INT),  # address of uint8 [panels, tiles], each tile's
        ("rows", _INT),  # K
        ("tiles", _INT),  # K' / 32
        ("panels", _INT),  # N' / 16
        ("row_steps", _INT),  # address of float32 [K'], 0 in the padding
        ("column_steps", _INT),  # address of float32 [N']
        ("bias", _INT),  # address of float32 [N']
        ("overflow_tiles", _INT),  # address of OVERFLOW_TILE, panel by panel
        ("overflow_starts", _INT),  # address of int64 [panels + 1], the panels' first
        ("takes_int8", _INT),  # whether a prompt's inputs may be rounded to int8
    ]
)
PACKED, FLOATS = 0, 1
OVERFLOW_TILE = np.dtype(
    [
        ("tile", _INT),  # of the panel
        ("layout", _INT),
        ("values", _INT),  # address
    ]
)
