"""How a matrix's values lie in panels of 64 columns, in memory and in files of the codec `fixed`.

A panel holds 64 columns of all K rows, so that a kernel walks down it with the sums of 64
outputs in registers and reads memory in one stream. K is padded to K', a multiple of 8, and N
to one of 64; what lies in the padding means nothing. By the bits of a value:

    16   int16 [panels, K', 64]       integers
     8   int8  [panels, K', 64]
     4   uint8 [panels, K' / 2, 64]   codes, two rows a byte
     2   uint8 [panels, K' / 4, 64]   codes, four rows a byte

A code is an index in a table of levels. Of the rows that share a byte, the first has its
lowest bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Values = NDArray[Any]  # int16, int8 or uint8

PANEL_COLUMNS = 64
ROW_MULTIPLE = 8
DTYPES: dict[int, type[np.integer[Any]]] = {2: np.uint8, 4: np.uint8, 8: np.int8, 16: np.int16}

# Tables of levels. Eight times a level is an integer of 8 bits, for kernels that want those.
NO_LEVELS = np.zeros(0, np.float32)  # values are integers
INTEGERS_4 = np.arange(16, dtype=np.float32) - 8
EVEN_2 = np.arange(4, dtype=np.float32) - np.float32(1.5)
BEND, SLOPE = 6.0, 2.25
_CENTRED = np.arange(16, dtype=np.float32) - np.float32(7.5)
# 0.5 to 5.5 evenly, then 7.125 and 9.375: within 0.12 dB of the 16 best levels for a Gaussian
# (Max 1960, which are not cheap to compute from their codes), where even ones lose 0.85 dB.
BENT_4 = (SLOPE * _CENTRED - (SLOPE - 1) * np.clip(_CENTRED, -BEND, BEND)).astype(np.float32)


def padded_rows(rows: int) -> int:
    """K': `rows` rounded up to a multiple of 8."""
    return -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE


def rows_per_byte(bits: int) -> int:
    """Rows that share a byte; 1 where none do."""
    return max(8 // bits, 1)


def panel_shape(shape: tuple[int, int], bits: int) -> tuple[int, int, int]:
    """Shape of the stored array of a `[K, N]` matrix."""
    rows, columns = shape
    return -(-columns // PANEL_COLUMNS), padded_rows(rows) // rows_per_byte(bits), PANEL_COLUMNS


def zeros(shape: tuple[int, int], bits: int) -> Values:
    """The stored array of a `[K, N]` matrix, still to be filled."""
    return np.zeros(panel_shape(shape, bits), DTYPES[bits])


def store(values: Values, bits: int, start: int, block: Values) -> None:
    """Write integers or codes `[K, width]`, which begin at column `start` of the matrix."""
    rows, width = block.shape
    per_byte = rows_per_byte(bits)
    stored = block
    if per_byte > 1:
        padded = np.zeros((padded_rows(rows), width), np.uint8)
        padded[:rows] = block
        stored = padded[0::per_byte]
        for row in range(1, per_byte):
            stored = stored | (padded[row::per_byte] << np.uint8(bits * row))
    for panel in range(start // PANEL_COLUMNS, -(-(start + width) // PANEL_COLUMNS)):
        first = max(start, panel * PANEL_COLUMNS)
        last = min(start + width, (panel + 1) * PANEL_COLUMNS)
        lane = first - panel * PANEL_COLUMNS
        part = stored[:, first - start : last - start]
        values[panel, : len(part), lane : lane + last - first] = part


def unpack_rows(stored: Values, bits: int) -> Values:
    """Stored rows `[R, ...]` -> integers or codes `[R * rows a byte, ...]`."""
    per_byte = rows_per_byte(bits)
    if per_byte == 1:
        return stored
    mask = np.uint8(2**bits - 1)
    parts = [(stored >> np.uint8(bits * row)) & mask for row in range(per_byte)]
    return np.stack(parts, axis=1).reshape(-1, *stored.shape[1:])


def unpack(values: Values, bits: int, shape: tuple[int, int]) -> Values:
    """The integers or codes `[K, N]` of a stored array."""
    panels = unpack_rows(np.moveaxis(values, 1, 0), bits)  # [K', panels, 64]
    return panels.reshape(len(panels), -1)[: shape[0], : shape[1]]


def bits_of(values: Values, levels: Float32) -> int:
    """Bits of a stored value, whose levels are `NO_LEVELS` if it is an integer."""
    return levels.size.bit_length() - 1 if levels.size else 8 * values.itemsize


def unscaled(values: Values, levels: Float32, shape: tuple[int, int]) -> Values:
    """A stored array's levels or integers, `[K, N]`."""
    found = unpack(values, bits_of(values, levels), shape)
    return levels[found] if levels.size else found
