"""Lay out a matrix's codes in panels of 16 columns, in memory and in files of the codec `fixed`.

A panel holds 16 columns of all K rows, cut into tiles of 32 rows (K is padded to K', a multiple
of 32, and N to one of 16; what lies in the padding means nothing). A tile of codes of b bits is
b vectors of 64 bytes, `[panels, K' / 32, b, 64]` in all. A vector has four bytes for each of
the 16 columns, so that a kernel that multiplies groups of four bytes ("quads") finds the sums of
16 outputs in its lanes, and reads memory in one stream.

A tile's 8 quads are rows 0-3, 4-7, ... 28-31. Codes of 8, 4 or 2 bits fill one plane: of 8
bits, vector v is quad v; of 4, its lower halves are quad 2v, its upper halves quad 2v + 1; of 2,
bits 2j and 2j + 1 are quad 4v + j; of 1 bit, bit j is quad j. Codes of other widths are cut into
planes, the lower bits first: 7 = 4 + 2 + 1, 6 = 4 + 2, 5 = 4 + 1, 3 = 2 + 1.
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
QUADS = 8  # of a tile
PLANES: dict[int, tuple[int, ...]] = {
    1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)
}  # fmt: skip
"""Bits of a code -> bits of its planes."""


@dataclass(frozen=True, eq=False)
class PanelLayout:
    """Describe the width of codes, and what they stand for.

    Attributes:
        name: name of the layout.
        bits: bits of a code.
        levels: float32 `[2 ** bits]`, ascending, what the codes stand for.
        unit: levels = unit * (factor * bytes - offset), with bytes from 0 to 255, which integer
            kernels multiply by.
        factor, offset: see `unit`.
    """

    name: str
    bits: int
    levels: Float32
    unit: float
    factor: int
    offset: int

    @property
    def byte_bits(self) -> int:
        """Return the bits of the largest byte that kernels multiply by."""
        largest = (self.levels[-1] / self.unit + self.offset) / self.factor
        return int(largest).bit_length()

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Pickle by name: a process has one object of each layout."""
        return layout_named, (self.name,)


def _even(bits: int) -> PanelLayout:
    offset = 2**bits - 1
    levels = np.arange(2**bits, dtype=np.float32) - np.float32(offset / 2)
    return PanelLayout(f"even{bits}", bits, levels, 0.5, 2, offset)


BEND, SLOPE = 6.0, 2.25
_CENTRED = np.arange(16, dtype=np.float32) - np.float32(7.5)
# 0.5 to 5.5 evenly, then 7.125 and 9.375: within 0.12 dB of the 16 best levels for a Gaussian
# (Max 1960, which are not cheap to compute from their codes), where even ones lose 0.85 dB.
_BENT = (SLOPE * _CENTRED - (SLOPE - 1) * np.clip(_CENTRED, -BEND, BEND)).astype(np.float32)

EVEN = tuple(_even(bits) for bits in range(1, 9))
"""Levels at one distance around 0, by bits - 1."""
EVEN_2 = EVEN[1]
BENT_4 = PanelLayout("bent4", 4, _BENT, 0.125, 1, 128)
INT_8 = PanelLayout("int8", 8, np.arange(256, dtype=np.float32) - 128, 1.0, 1, 128)
LAYOUTS: tuple[PanelLayout, ...] = (*EVEN, BENT_4, INT_8)
"""All of them; kernels know a layout by its place."""


def layout_named(name: str) -> PanelLayout:
    """Return the layout of that name in `LAYOUTS`."""
    return {layout.name: layout for layout in LAYOUTS}[name]


def panel_shape(shape: tuple[int, int], bits: int) -> tuple[int, int, int, int]:
    """Return the shape of the stored array of a `[K, N]` matrix."""
    rows, columns = shape
    return -(-columns // PANEL_COLUMNS), -(-rows // TILE_ROWS), bits, VECTOR_BYTES


def pack(codes: Codes, bits: int) -> Values:
    """Return the stored array of codes `[K, N]`."""
    tiles = cut(codes)
    return pack_tiles(tiles.reshape(-1, *tiles.shape[2:]), bits).reshape(
        panel_shape(codes.shape, bits)
    )


def unpack(values: Values, shape: tuple[int, int]) -> Codes:
    """Return the codes `[K, N]` of a stored array."""
    panels, tiles, bits, _ = values.shape
    found = unpack_tiles(values.reshape(-1, bits, VECTOR_BYTES))
    return join(found.reshape(panels, tiles, TILE_ROWS, PANEL_COLUMNS), shape)


def cut(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return `[K, N]` as tiles `[panels, tiles, 32, 16]`, padded with zeros."""
    rows, columns = matrix.shape
    panels, tiles = -(-columns // PANEL_COLUMNS), -(-rows // TILE_ROWS)
    padded = np.zeros((tiles * TILE_ROWS, panels * PANEL_COLUMNS), matrix.dtype)
    padded[:rows, :columns] = matrix
    return padded.reshape(tiles, TILE_ROWS, panels, PANEL_COLUMNS).transpose(2, 0, 1, 3)


def join(tiles: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Return the matrix that `cut` has cut into tiles."""
    panels, count, _, _ = tiles.shape
    whole = tiles.transpose(1, 2, 0, 3).reshape(count * TILE_ROWS, panels * PANEL_COLUMNS)
    return whole[: shape[0], : shape[1]]


def pack_tiles(codes: Codes, bits: int) -> Values:
    """Return codes `[n, 32, 16]` as stored tiles `[n, bits, 64]`."""
    quads = codes.reshape(-1, QUADS, 4, PANEL_COLUMNS).swapaxes(2, 3)  # [n, 8, 16, 4]
    planes, shift = [], 0
    for own in PLANES[bits]:
        fields = (quads >> np.uint8(shift)) & np.uint8(2**own - 1)
        fields = fields.reshape(len(quads), own, 8 // own, VECTOR_BYTES)
        places = np.arange(0, 8, own, dtype=np.uint8)[:, None]
        planes.append(np.bitwise_or.reduce(fields << places, axis=2))
        shift += own
    return np.concatenate(planes, axis=1)


def unpack_tiles(stored: Values) -> Codes:
    """Return the codes that `pack_tiles` has stored."""
    count, bits, _ = stored.shape
    quads = np.zeros((count, QUADS, VECTOR_BYTES), np.uint8)
    shift = 0
    for own in PLANES[bits]:
        places = np.arange(0, 8, own, dtype=np.uint8)[:, None]
        fields = (stored[:, shift : shift + own, None] >> places) & np.uint8(2**own - 1)
        quads |= fields.reshape(quads.shape) << np.uint8(shift)
        shift += own
    codes = quads.reshape(count, QUADS, PANEL_COLUMNS, 4).swapaxes(2, 3)
    return codes.reshape(count, TILE_ROWS, PANEL_COLUMNS)
