"""Describe to compiled code the blocks that a team unpacks (unpack_programs.py).

Addresses are of arrays that whoever fills a record keeps alive. What a program writes is marked.
"""

import numpy as np

from rbe_cli.weights.panel_layout import VECTOR_BYTES
from rbe_cli.weights.trellis_layout import WIDTHS

_INT = np.int64

UNPACK_UNIT = np.dtype(
    [
        ("state", _INT),  # written: WAITING, PLACED, or DAMAGED where the words are wrong
        ("words", _INT),  # address of uint16
        ("word_count", _INT),
        ("position", _INT),  # of the first word after the levels
        ("lane_states", _INT),  # address of uint32 [32], the states after the levels
        ("taps", _INT),  # address of int64 [6] (rans_decoder.LaneSource)
        ("row_levels", _INT),  # address of int16 [K]
        ("column_levels", _INT),  # address of int16 [B], along the trellis
        ("rows", _INT),  # K
        ("columns", _INT),  # B
        ("begins", _INT),  # whether a matrix begins with this block
        ("widths", _INT),  # address of uint8 [panels, tiles], written
        ("starts", _INT),  # addresses of int64 [panels + 1], written, from the matrix's beginning
        ("overflow_starts", _INT),
        ("is_whole", _INT),  # written: whether the words are right
        ("vectors", _INT),  # written: how many vectors of 64 bytes the tiles take,
        ("overflow", _INT),  # and how many overflow tiles there are,
        ("overflow_vectors", _INT),  # and their vectors
        ("matrix_values", _INT),  # written: address of the matrix's values
        ("matrix_overflow", _INT),  # written: number of its first overflow tile
        ("end_values", _INT),  # written: where the next block's values go
        ("end_overflow", _INT),  # written: the number of the next block's first overflow tile
        ("end_overflow_values", _INT),  # written: and where its vectors go
    ]
)
WAITING, PLACED, DAMAGED = 0, 1, 2
UNPACK_JOB = np.dtype(
    [
        ("next", _INT),  # number of the next block that a thread takes
        ("units", _INT),  # address of UNPACK_UNIT [count]
        ("count", _INT),
        ("slots", _INT),  # address of the entropy coder's table
        ("values", _INT),  # address of bytes, written: panels, block after block
        ("overflow_tiles", _INT),  # address of OVERFLOW_TILE, written
        ("overflow_values", _INT),  # address of bytes, written: the overflow tiles' vectors
        ("scratch", _INT),  # address of [2 * threads, scratch_bytes]
        ("scratch_bytes", _INT),
        ("bits", _INT),  # where in a block's scratch: uint32 [HISTORY + B']
        ("tile", _INT),  # int16 [B', 32]
        ("overflow_bits", _INT),  # uint8 [panels, tiles]
        ("tiles", _INT),  # [panels, tiles, PACKED_BYTES]
        ("overflow", _INT),  # [panels, tiles, OVERFLOW_BYTES]
    ]
)
MOST_OVERFLOW_BITS = 8
PACKED_BYTES = VECTOR_BYTES * WIDTHS[-1]
"""Room for a packed tile: a plane, and the vectors of the codes."""
OVERFLOW_BYTES = VECTOR_BYTES * MOST_OVERFLOW_BITS
