"""Unpack tiles of a trellis's integers in kernels (weights/trellis_layout.py).

A panel's entries are in the order in which its tiles' vectors are stored: width + 8 * (place in
its group of 8 tiles) + 64 * (its first vector, counted from the panel's first). `starts` tells
each panel's first vector (its planes), and that of the panel before, or -1 where a trellis begins.
`taps` are how many columns before their own the bits of the lowest bit of q lie (two), and those
of z (one or two; 0: none).
"""

from typing import Any

from numba import cuda, int32, uint32

from rbe_cli.cuda.inline_ptx import add_products
from rbe_cli.cuda.tile_form import TileForm

_SIGNS, _ONES, _ALL = 0x80808080, 0x01010101, 0xFFFFFFFF


@cuda.jit(device=True)
def _field(values: Any, vector: Any, bit: Any, size: Any) -> Any:
    """Return some bits of each byte of a word."""
    return uint32(uint32(values[vector] >> uint32(bit)) & uint32(((1 << size) - 1) * _ONES))


@cuda.jit(device=True)
def _uneven_bits(values: Any, place: Any, width: Any, quad: Any) -> Any:
    """Return the bits above the lowest two of codes of the widths 4, 6 and 7.

    Most lie in a field of their own; the last quads' are what is left over (`FIELDS`).
    """
    if width == 4:
        if quad < 6:
            return _field(values, place + 16 * (quad % 3), 2 + 3 * (quad // 3), 3)
        first = _field(values, place + 16 * (quad - 6), 0, 2)
        return uint32(first | uint32(_field(values, place + 32, quad - 6, 1) << uint32(2)))
    if width == 6:
        if quad < 5:
            return _field(values, place + 16 * quad, 2, 5)
        if quad < 7:
            own = place + 32 * (quad - 5)
            first = _field(values, own, 0, 2)
            second = uint32(_field(values, own + 16, 0, 2) << uint32(2))
            third = uint32(_field(values, place + 16 * (quad - 5), 7, 1) << uint32(4))
            return uint32(uint32(first | second) | third)
        first = _field(values, place + 64, 0, 2)
        second = uint32(_field(values, place + 32, 7, 1) << uint32(2))
        third = uint32(_field(values, place + 48, 7, 1) << uint32(3))
        fourth = uint32(_field(values, place + 64, 7, 1) << uint32(4))
        return uint32(uint32(first | second) | uint32(third | fourth))
    if quad < 6:
        return _field(values, place + 16 * quad, 2, 6)
    own = place + 48 * (quad - 6)
    second = uint32(_field(values, own + 16, 0, 2) << uint32(2))
    third = uint32(_field(values, own + 32, 0, 2) << uint32(4))
    return uint32(uint32(_field(values, own, 0, 2) | second) | third)


@cuda.jit(device=True)
def _upper_bits(values: Any, place: Any, width: Any, quad: Any) -> Any:
    """Return the bits above the lowest two of a quad's codes; a column's vectors are at `place`."""
    if width == 1:
        return uint32(0)
    if width == 2:
        return _field(values, place, quad, 1)
    if width == 3:
        return _field(values, place + 16 * (quad >> 2), 2 * (quad & 3), 2)
    if width == 5:
        return _field(values, place + 16 * (quad >> 1), 4 * (quad & 1), 4)
    return _uneven_bits(values, place, width, quad)


@cuda.jit(device=True)
def _levels(values: Any, place: Any, width: Any, quad: Any, of_q: Any, of_z: Any) -> Any:
    """Return four integers as signed bytes: code - 2^width."""
    codes = uint32(_upper_bits(values, place, width, quad) << uint32(2))
    second = uint32(uint32(of_q >> uint32(quad)) & uint32(_ONES))
    first = uint32(uint32(of_z >> uint32(quad)) & uint32(_ONES))
    codes = uint32(codes | uint32(uint32(second << uint32(1)) | first))
    return uint32(uint32(codes + uint32((128 - (1 << width)) * _ONES)) ^ uint32(_SIGNS))


@cuda.jit(device=True)
def _earlier(values: Any, own: Any, before: Any, column: Any, distance: Any) -> Any:
    """Return the bits u of the column that lies `distance` before this one along the trellis."""
    if column >= distance:
        return values[own + column - distance]
    if before >= 0:
        return values[before + column + 16 - distance]
    return uint32(0)


@cuda.jit(device=True)
def _low_planes(
    values: Any, starts: Any, taps: Any, panel: Any, tile: Any, column: Any, width: Any
) -> Any:
    """Return the lowest bits of q and z, of a column of a tile: bit j of a byte is quad j's."""
    own = 16 * (starts[panel, 0] + tile)
    before = starts[panel, 1]
    if before >= 0:
        before = 16 * (before + tile)
    of_q = uint32(values[own + column] ^ _earlier(values, own, before, column, taps[0]))
    of_q = uint32(of_q ^ _earlier(values, own, before, column, taps[1]))
    of_z = _earlier(values, own, before, column, taps[2])
    if taps[3] > 0:
        of_z = uint32(of_z ^ _earlier(values, own, before, column, taps[3]))
    if width == 1:
        of_q = uint32(of_q ^ uint32(_ALL))
    return of_q, of_z


@cuda.jit(device=True)
def _column_sum(
    values: Any, place: Any, width: Any, of_q: Any, of_z: Any, high: Any, low: Any, inputs: Any
) -> Any:
    """Return the products of a tile's column; compiled for a constant width."""
    of_high, of_low = int32(0), int32(0)
    for quad in range(8):
        levels = _levels(values, place, width, quad, of_q, of_z)
        of_high = add_products(levels, high[inputs + quad], of_high)
        of_low = add_products(levels, low[inputs + quad], of_low)
    return int32(256 * of_high + of_low)


@cuda.jit(device=True)
def _tile_number(entries: Any, tiles: Any, panel: Any, slot: Any) -> Any:
    return (slot & ~7) + ((entries[panel * tiles + slot] >> 3) & 7)


@cuda.jit(device=True)
def _tile_sum(
    values: Any, entries: Any, starts: Any, taps: Any, tiles: Any, panel: Any, slot: Any,
    column: Any, high: Any, low: Any, place: Any,
) -> Any:  # fmt: skip
    entry = entries[panel * tiles + slot]
    width, tile = entry & 7, (slot & ~7) + ((entry >> 3) & 7)
    q, z = _low_planes(values, starts, taps, panel, tile, column, width)
    own = 16 * (starts[panel, 0] + (entry >> 6)) + column
    inputs = place + 8 * tile
    if width == 1:
        return _column_sum(values, own, 1, q, z, high, low, inputs)
    if width == 2:
        return _column_sum(values, own, 2, q, z, high, low, inputs)
    if width == 3:
        return _column_sum(values, own, 3, q, z, high, low, inputs)
    if width == 4:
        return _column_sum(values, own, 4, q, z, high, low, inputs)
    if width == 5:
        return _column_sum(values, own, 5, q, z, high, low, inputs)
    if width == 6:
        return _column_sum(values, own, 6, q, z, high, low, inputs)
    return _column_sum(values, own, 7, q, z, high, low, inputs)


@cuda.jit(device=True)
def _quad_pair(
    values: Any, entries: Any, starts: Any, taps: Any, tiles: Any, panel: Any, slot: Any,
    column: Any, pair: Any,
) -> Any:  # fmt: skip
    entry = entries[panel * tiles + slot]
    width, tile = entry & 7, (slot & ~7) + ((entry >> 3) & 7)
    q, z = _low_planes(values, starts, taps, panel, tile, column, width)
    own = 16 * (starts[panel, 0] + (entry >> 6)) + column
    first = _levels(values, own, width, 2 * pair, q, z)
    return first, _levels(values, own, width, 2 * pair + 1, q, z)


TRELLIS_FORM = TileForm("trellis", _tile_sum, _quad_pair, _tile_number)
