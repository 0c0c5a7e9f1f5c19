"""Describe a matrix in panels to compiled kernels: its addresses and lengths.

Lengths are counted in elements, strides in bytes. Who fills a record keeps the arrays behind its
addresses alive.
"""

import numpy as np

_INT = np.int64

MATRIX = np.dtype(
    [
        ("form", _INT),  # UNIFORM, FLOATS or TRELLIS
        ("values", _INT),  # address of the tiles; of float32, [panels, rows, 16]
        ("starts", _INT),  # address of int64 [panels + 1], the panels' bytes
        ("layout", _INT),  # place of the tiles' in LAYOUTS, or of the trellis's states in STATES
        ("rows", _INT),  # K
        ("tiles", _INT),  # K' / 32
        ("panels", _INT),  # N' / 16
        ("row_steps", _INT),  # address of float32 [K'], 0 in the padding
        ("column_steps", _INT),  # address of float32 [N'], in the order of the lanes
        ("bias", _INT),  # the same
        ("takes_int8", _INT),  # whether a prompt's inputs may be rounded to int8
        # Of the form TRELLIS alone (trellis_panels.py):
        ("tile_codes", _INT),  # address of uint8 [panels, tiles] (trellis_layout.tile_codes)
        ("lanes", _INT),  # address of int32 [panels, 16], the column of each lane or -1
        ("places", _INT),  # address of int64 [N], the lane of each column
        ("follows", _INT),  # address of uint8 [panels], 0 where a trellis begins
        ("no_planes", _INT),  # address of zeros [tiles, 64]
        ("overflow_tiles", _INT),  # address of OVERFLOW_TILE, panel by panel
        ("overflow_starts", _INT),  # address of int64 [panels + 1], the panels' first
    ]
)
UNIFORM, FLOATS, TRELLIS = 0, 1, 2
OVERFLOW_TILE = np.dtype(
    [
        ("tile", _INT),  # of the panel
        ("layout", _INT),
        ("values", _INT),  # address
    ]
)
