"""How a matrix's codes lie in panels of 16 columns, in memory and in files of the codec `fixed`.

A panel holds 16 columns of all K rows, cut into tiles of 32 rows (K is padded to K', a multiple
of 32, and N to one of 16; what lies in the padding means nothing). A tile of codes of b bits is
b vectors of 64 bytes, `[panels, K' / 32, b, 64]` in all. A vector has four bytes for each of
the 16 columns, so that a kernel that multiplies groups of four bytes ("quads") finds the sums of
16 outputs in its lanes, and reads memory in one stream.

A tile's 8 quads are rows 0-3, 4-7, ... 28-31. Codes of 8, 4 or 2 bits fill one plane: of 8
bits, vector v is quad v; of 4, its lower halves are quad 2v, its upper halves quad 2v + 1; of 2,
bits 2j and 2j + 1 are quad 4v + j. Codes of other widths are cut into planes, the lower bits
first: 6 = 4 + 2, 5 = 4 + 1, 3 = 2 + 1; of a plane of 1 bit, bit j is quad j.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Values = NDArray[np.uint8]
Codes = NDArray[np.uint8]

PANEL_COLUMNS = 16
TILE_ROWS = 32
VECTOR_BYTES = 64
_QUADS = 8
PLANES: dict[int, tuple[int, ...]] = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
"""Bits of a code -> bits of its planes."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The width of codes, and what they stand for.

    Attributes:
        name: of the layout.
        bits: of a code.
        levels: float32 `[2 ** bits]`, ascending, what the codes stand for.
        unit: levels = unit * (bytes - offset), with bytes from 0 to 255, which integer kernels
            multiply by.
        offset: see `unit`.
    """

    name: str
    bits: int
    levels: Float32
    unit: float
    offset: int

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Pickled by name: a process has one object a layout."""
        return layout_named, (self.name,)


def _integers(bits: int) -> Layout:
    offset = 2 ** (bits - 1)
    return Layout(f"int{bits}", bits, np.arange(2**bits, dtype=np.float32) - offset, 1.0, offset)


BEND, SLOPE = 6.0, 2.25
_CENTRED = np.arange(16, dtype=np.float32) - np.float32(7.5)
# 0.5 to 5.5 evenly, then 7.125 and 9.375: within 0.12 dB of the 16 best levels for a Gaussian
# (Max 1960, which are not cheap to compute from their codes), where even ones lose 0.85 dB.
_BENT = (SLOPE * _CENTRED - (SLOPE - 1) * np.clip(_CENTRED, -BEND, BEND)).astype(np.float32)

EVEN_2 = Layout("even2", 2, np.arange(4, dtype=np.float32) - np.float32(1.5), 0.5, 3)
BENT_4 = Layout("bent4", 4, _BENT, 0.125, 128)
INTEGERS = tuple(_integers(bits) for bits in (3, 4, 5, 6, 8))
INT_8 = INTEGERS[-1]
LAYOUTS: tuple[Layout, ...] = (EVEN_2, BENT_4, *INTEGERS)
"""All of them; kernels know a layout by its place."""


def layout_named(name: str) -> Layout:
    """One of `LAYOUTS`."""
    return {layout.name: layout for layout in LAYOUTS}[name]


def panel_shape(shape: tuple[int, int], bits: int) -> tuple[int, int, int, int]:
    """Shape of the stored array of a `[K, N]` matrix."""
    rows, columns = shape
    return -(-columns // PANEL_COLUMNS), -(-rows // TILE_ROWS), bits, VECTOR_BYTES


def zeros(shape: tuple[int, int], bits: int) -> Values:
    """The stored array of a `[K, N]` matrix, still to be filled."""
    return np.zeros(panel_shape(shape, bits), np.uint8)


def store(values: Values, start: int, codes: Codes) -> None:
    """Write codes `[K, width]`, which begin at column `start` of the matrix."""
    panels, tiles, bits, _ = values.shape
    rows, width = codes.shape
    padded = np.zeros((tiles * TILE_ROWS, width), np.uint8)
    padded[:rows] = codes
    quads = padded.reshape(tiles, _QUADS, 4, width)
    stored = np.concatenate(
        [_packed(quads, shift, own) for shift, own in _shifts(bits)], axis=1
    )  # [tiles, bits, width, 4]
    lanes = values.reshape(panels, tiles, bits, PANEL_COLUMNS, 4)
    for panel in range(start // PANEL_COLUMNS, -(-(start + width) // PANEL_COLUMNS)):
        first = max(start, panel * PANEL_COLUMNS)
        last = min(start + width, (panel + 1) * PANEL_COLUMNS)
        lane = first - panel * PANEL_COLUMNS
        part = stored[:, :, first - start : last - start]
        lanes[panel, :, :, lane : lane + last - first] = part


def unpack(values: Values, shape: tuple[int, int]) -> Codes:
    """The codes `[K, N]` of a stored array."""
    rows, columns = shape
    return unpack_columns(values, np.arange(columns))[:rows]


def unpack_columns(values: Values, indices: NDArray[np.int64]) -> Codes:
    """The codes `[K', len(indices)]` of some columns of a stored array."""
    panels, tiles, bits, _ = values.shape
    lanes = values.reshape(panels, tiles, bits, PANEL_COLUMNS, 4)
    # [columns, tiles, bits, 4]
    stored = lanes[indices // PANEL_COLUMNS, :, :, indices % PANEL_COLUMNS]
    codes = np.zeros((len(indices), tiles, _QUADS, 4), np.uint8)
    first = 0
    for shift, own in _shifts(bits):
        part = stored[:, :, first : first + own, None]  # [columns, tiles, own, 1, 4]
        places = np.arange(0, 8, own, dtype=np.uint8)[:, None]
        fields = (part >> places) & np.uint8(2**own - 1)  # [columns, tiles, own, 8 / own, 4]
        codes |= fields.reshape(codes.shape) << np.uint8(shift)
        first += own
    return codes.reshape(len(indices), -1).T


def _shifts(bits: int) -> list[tuple[int, int]]:
    """(first bit, bits) of each plane."""
    planes = PLANES[bits]
    return [(sum(planes[:i]), own) for i, own in enumerate(planes)]


def _packed(quads: NDArray[Any], shift: int, own: int) -> Values:
    """One plane of `[tiles, 8, 4, width]` as `[tiles, own, width, 4]`."""
    tiles, _, _, width = quads.shape
    fields = (quads >> np.uint8(shift)) & np.uint8(2**own - 1)
    fields = fields.reshape(tiles, own, 8 // own, 4, width)
    packed = fields[:, :, 0]
    for place in range(1, 8 // own):
        packed = packed | (fields[:, :, place] << np.uint8(own * place))
    return packed.transpose(0, 1, 3, 2)
