"""Sum the products of a panel of trellis tiles, or unpack some of its tiles (trellis_dot.py)."""

from typing import Any

import numpy as np

from rbe_cli.kernels.linear.block_dot import quad_stride
from rbe_cli.kernels.linear.quad_products import quads_at
from rbe_cli.kernels.linear.tile_dot import (
    add_tile,
    layout_factor,
    layout_offset,
    token_sums,
    token_total,
)
from rbe_cli.kernels.linear.trellis_dot import add_trellis_tile, prepare_trellis_tile
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    fused,
    load_byte,
    load_float,
    load_int,
    load_int32,
    record_at,
    splat_float,
    splat_int,
    to_floats,
)
from rbe_cli.weights.matrix_record import OVERFLOW_TILE
from rbe_cli.weights.panel_layout import TILE_ROWS, VECTOR_BYTES
from rbe_cli.weights.trellis_layout import GROUP_TILES

_ZERO = np.float32(0)
_OVERFLOW_UNIT = np.float32(128)  # half of 256, as overflow tiles hold odd multiples of 1 / 2


@program_code
def planes_of(matrix: Any, panel: int) -> tuple[int, int]:
    """Return the addresses of a panel's planes, and of those of the panel before it."""
    before = matrix.no_planes
    if load_byte(matrix.follows + panel) != 0:
        before = matrix.values + load_int(matrix.starts + 8 * (panel - 1))
    return matrix.values + load_int(matrix.starts + 8 * panel), before


@program_code
def trellis_sum(arithmetic: Any, matrix: Any, panel: int, x: int, words: int) -> Any:
    """Return one token times one panel: 16 outputs without their steps.

    `x` is what products.quantise has written, and `words` is where its quantised inputs begin.
    """
    tiles, trellis = matrix.tiles, matrix.layout
    groups = (tiles + GROUP_TILES - 1) // GROUP_TILES
    tile_sums, codes = x + 8 * groups, matrix.tile_codes + panel * tiles
    plane, before = planes_of(matrix, panel)
    values = plane + VECTOR_BYTES * tiles
    total = splat_float(_ZERO)
    for group in range(groups):
        sums, correction = token_sums(arithmetic), 0
        first = group * GROUP_TILES
        for stored in range(first, min(first + GROUP_TILES, tiles)):
            code = load_byte(codes + stored)
            width, tile = code & 15, first + (code >> 4)
            correction += load_int32(tile_sums + 4 * tile) << width
            place = quads_at(arithmetic, words, TILE_ROWS * tile)
            own = VECTOR_BYTES * tile
            sums = add_trellis_tile(
                arithmetic, trellis, width, plane + own, before + own, values, place, sums
            )
            values += VECTOR_BYTES * (width - 1)
        exact = token_total(arithmetic, sums) - splat_int(np.int32(correction))
        total = fused(to_floats(exact), splat_float(load_float(x + 8 * group)), total)
    return add_overflow(arithmetic, matrix, panel, x, words, total)


@program_code
def add_overflow(arithmetic: Any, matrix: Any, panel: int, x: int, words: int, total: Any) -> Any:
    """Return the sum plus the panel's tiles of multiples of 256."""
    first = load_int(matrix.overflow_starts + 8 * panel)
    last = load_int(matrix.overflow_starts + 8 * (panel + 1))
    if first == last:
        return total
    tile_sums = x + 8 * ((matrix.tiles + GROUP_TILES - 1) // GROUP_TILES)
    overflow = splat_float(_ZERO)
    for number in range(first, last):
        own = record_at(OVERFLOW_TILE, matrix.overflow_tiles, number)
        place = quads_at(arithmetic, words, TILE_ROWS * own.tile)
        sums = add_tile(arithmetic, own.layout, own.values, place, token_sums(arithmetic))
        correction = layout_offset(own.layout) * load_int32(tile_sums + 4 * own.tile)
        factor = splat_int(np.int32(layout_factor(own.layout)))
        exact = token_total(arithmetic, sums) * factor - splat_int(np.int32(correction))
        scale = splat_float(load_float(x + 8 * (own.tile // GROUP_TILES)))
        overflow = fused(to_floats(exact), scale, overflow)
    return fused(overflow, splat_float(_OVERFLOW_UNIT), total)


@program_code
def prepare_trellis_tiles(
    arithmetic: Any, matrix: Any, panel: int, start: int, stop: int, values: int, out: int
) -> int:
    """Unpack a group of tiles for a block of tokens; their vectors begin at `values`.

    It returns where they end.
    """
    plane, before = planes_of(matrix, panel)
    for stored in range(start, stop):
        code = load_byte(matrix.tile_codes + panel * matrix.tiles + stored)
        width, tile = code & 15, start + (code >> 4)
        own, place = VECTOR_BYTES * tile, out + 8 * quad_stride(arithmetic) * (tile - start)
        prepare_trellis_tile(
            arithmetic, matrix.layout, width, plane + own, before + own, values, place
        )
        values += VECTOR_BYTES * (width - 1)
    return values


@program_code
def overflow_code(bits: int, values: int, quad: int, place: int) -> int:
    """Return one code of an overflow tile: of a quad, at a place of the 64 in its lanes."""
    code, shift, vector = 0, 0, 0
    for own in (8, 4, 2, 1):  # panel_layout.PLANES
        if bits & own:
            vectors = vector + quad * own // 8
            stored = load_byte(values + VECTOR_BYTES * vectors + place)
            code |= (stored >> (own * quad % 8) & (1 << own) - 1) << shift
            shift, vector = shift + own, vector + own
    return code
