"""Lay out the integers of a trellis in tiles, without the bit that the trellis makes redundant.

A tile is 32 rows x 16 columns that follow each other along the trellis, and its rows are cut into
quads as in panel_layout.py. In a tile of width b all integers lie in [-2**b, 2**b - 1], and their
codes v = n + 2**b have b + 1 bits. The tile is stored as

    a plane of 64 bytes      the bits u (trellis_code.py): bit j of a byte is that of quad j
    b - 1 vectors of 64      the bits of v above the lowest two, as `FIELDS` places them

The lowest two bits of v are z and the lowest bit of q, which follow from the planes of this
panel and of the one before (for b = 1 the upper one is inverted). A tile with an integer outside
[-128, 127] has the width 7 and the codes v = n & 255, and a second tile holds n >> 8.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbe_cli.runtime.arrays import Int64, Integers
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, QUADS, TILE_ROWS, VECTOR_BYTES
from rbe_cli.weights.trellis_code import Taps

Bytes = NDArray[np.uint8]

WIDTHS = range(1, 8)
GROUP_TILES = 8


class Field(NamedTuple):
    """Say where some bits of a quad's codes are stored.

    Attributes:
        vector: of the tile's vectors.
        bit: the lowest one in the bytes of the vector.
        size: the number of bits.
        target: the lowest one in the code.
    """

    vector: int
    bit: int
    size: int
    target: int


Fields = tuple[Field, ...]


def _fields() -> dict[int, tuple[Fields, ...]]:
    """Return the fields of each width's 8 quads.

    Most of 3, 5 and 6 bits are stored at the place that they have in the code, which saves a
    kernel the shift; the bits that are left over make the last quads.
    """
    one: list[Fields] = [(Field(0, quad, 1, 2),) for quad in range(8)]
    two: list[Fields] = [(Field(quad // 4, quad % 4 * 2, 2, 2),) for quad in range(8)]
    three: list[Fields] = [(Field(vector, bit, 3, 2),) for bit in (2, 5) for vector in range(3)]
    three += [(Field(quad, 0, 2, 2), Field(2, quad, 1, 4)) for quad in (0, 1)]
    four: list[Fields] = [(Field(quad // 2, quad % 2 * 4, 4, 2),) for quad in range(8)]
    five: list[Fields] = [(Field(vector, 2, 5, 2),) for vector in range(5)]
    five += [
        (Field(2 * quad, 0, 2, 2), Field(2 * quad + 1, 0, 2, 4), Field(quad, 7, 1, 6))
        for quad in (0, 1)
    ]
    five += [(Field(4, 0, 2, 2), *(Field(vector, 7, 1, vector + 2) for vector in (2, 3, 4)))]
    six: list[Fields] = [(Field(vector, 2, 6, 2),) for vector in range(6)]
    six += [
        tuple(Field(3 * quad + part, 0, 2, 2 + 2 * part) for part in range(3)) for quad in (0, 1)
    ]
    nothing: list[Fields] = [()] * 8
    tables = nothing, one, two, three, four, five, six
    return {width: tuple(table) for width, table in zip(WIDTHS, tables, strict=True)}


FIELDS = _fields()
"""Width -> quad -> the fields of its codes above the lowest two bits."""


def code_offset(width: Any) -> Any:
    """Return v - n of the codes v and integers n of tiles, by their width."""
    return 2**width


def widths_of(tiles: Integers) -> Int64:
    """Return the least widths b >= 0 with all integers in [-2**b, 2**b - 1], of `[n, 32, 16]`."""
    low, high = tiles.min(axis=(1, 2)).astype(np.int64), tiles.max(axis=(1, 2)).astype(np.int64)
    return np.searchsorted(2 ** np.arange(16), np.maximum(-low, high + 1))


def tile_order(widths: NDArray[np.integer]) -> Int64:
    """Return the order in which the tiles of panels are stored, `[panels, tiles]` as `widths`.

    Tiles of one width lie together, within groups of `GROUP_TILES` whose products are summed
    together: a CPU foretells the next width from the last one.
    """
    groups = np.arange(widths.shape[1]) // GROUP_TILES
    return np.argsort(16 * groups + widths, axis=1, kind="stable")


def vector_places(widths: NDArray[np.integer]) -> Int64:
    """Return where the vectors of each tile begin, `[panels, tiles]`, after a panel's planes."""
    order = tile_order(widths)
    sizes = np.take_along_axis(widths.astype(np.int64) - 1, order, axis=1)
    places = np.empty(widths.shape, np.int64)
    np.put_along_axis(places, order, np.cumsum(sizes, axis=1) - sizes, axis=1)
    return places


def tile_codes(widths: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return width + 16 * (place in its group) of tiles in the order in which they are stored."""
    order = tile_order(widths)
    return np.take_along_axis(widths, order, axis=1) | (order % GROUP_TILES << 4).astype(np.uint8)


def shift_bits(integers: Integers, code: Taps) -> NDArray[np.uint8]:
    """Return the bits u of rows `[K, B]`, whose columns follow each other along the trellis.

    Raises:
        ValueError: the integers are not a path of the trellis.
    """
    lowest = (integers >> 1 & 1).astype(np.uint8)
    reach = max(*code.parity, *code.offset)
    bits = np.zeros((len(integers), reach + integers.shape[1]), np.uint8)  # before column 0: 0
    for column in range(integers.shape[1]):
        place = reach + column
        earlier = np.bitwise_xor.reduce([bits[:, place - k] for k in code.parity])
        bits[:, place] = lowest[:, column] ^ earlier
    offsets = np.bitwise_xor.reduce([bits[:, reach - k : bits.shape[1] - k] for k in code.offset])
    if (offsets != (integers & 1)).any():
        raise ValueError("the integers are not a path of the trellis")
    return bits[:, reach:]


def lowest_bits(plane: Bytes, before: Bytes, code: Taps) -> tuple[Bytes, Bytes]:
    """Return the planes of the lowest bits of q and of z, `[n, 64]` each.

    Args:
        plane: `[n, 64]`, the bits u of tiles.
        before: the same of the panels before them, zeros where a trellis begins.
        code: the taps of the trellis.
    """
    both = np.concatenate([before, plane], axis=1)  # 16 columns of 4 bytes each
    earlier = {k: both[:, VECTOR_BYTES - 4 * k : -4 * k] for k in (*code.parity, *code.offset)}
    lowest = np.bitwise_xor.reduce([plane, *(earlier[k] for k in code.parity)])
    return lowest, np.bitwise_xor.reduce([earlier[k] for k in code.offset])


def pack_codes(codes: Bytes, width: int) -> Bytes:
    """Return codes `[n, 32, 16]` as vectors `[n, width - 1, 64]`, but for their lowest bits."""
    quads = _as_quads(codes)
    stored = np.zeros((len(codes), width - 1, VECTOR_BYTES), np.uint8)
    for quad, fields in enumerate(FIELDS[width]):
        for vector, bit, size, target in fields:
            own = quads[:, quad] >> np.uint8(target) & np.uint8(2**size - 1)
            stored[:, vector] |= own << np.uint8(bit)
    return stored


def unpack_codes(stored: Bytes, width: int) -> Bytes:
    """Return the codes `[n, 32, 16]` that `pack_codes` has stored, their lowest two bits 0."""
    quads = np.zeros((len(stored), QUADS, VECTOR_BYTES), np.uint8)
    for quad, fields in enumerate(FIELDS[width]):
        for vector, bit, size, target in fields:
            own = stored[:, vector] >> np.uint8(bit) & np.uint8(2**size - 1)
            quads[:, quad] |= own << np.uint8(target)
    return _as_rows(quads)


def pack_plane(bits: Bytes) -> Bytes:
    """Return bits `[n, 32, 16]` as planes `[n, 64]`."""
    places = np.arange(QUADS, dtype=np.uint8)[:, None]
    return np.bitwise_or.reduce(_as_quads(bits) << places, axis=1)


def unpack_plane(planes: Bytes) -> Bytes:
    """Return the bits `[n, 32, 16]` of planes `[n, 64]`."""
    places = np.arange(QUADS, dtype=np.uint8)[:, None]
    return _as_rows(planes[:, None] >> places & np.uint8(1))


def _as_quads(values: Bytes) -> Bytes:
    """Return `[n, 32, 16]` as quads `[n, 8, 64]`."""
    quads = values.reshape(-1, QUADS, 4, PANEL_COLUMNS).swapaxes(2, 3)
    return np.ascontiguousarray(quads).reshape(-1, QUADS, VECTOR_BYTES)


def _as_rows(quads: Bytes) -> Bytes:
    """Return quads `[n, 8, 64]` as `[n, 32, 16]`."""
    rows = quads.reshape(-1, QUADS, PANEL_COLUMNS, 4).swapaxes(2, 3)
    return np.ascontiguousarray(rows).reshape(-1, TILE_ROWS, PANEL_COLUMNS)
