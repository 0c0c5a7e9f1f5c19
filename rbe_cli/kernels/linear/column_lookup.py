"""Look up one column of a matrix in panels, which for an embedding is the vector of a token."""

from typing import Any

import numpy as np

from rbe_cli.kernels.linear.block_dot import unpack_tile
from rbe_cli.kernels.linear.products import first_tile
from rbe_cli.kernels.linear.quad_products import UNPACKED_OFFSET
from rbe_cli.kernels.linear.tile_dot import layout_bytes, layout_offset
from rbe_cli.kernels.linear.trellis_dot import unpack_trellis_tile
from rbe_cli.kernels.linear.trellis_sums import overflow_code, planes_of
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import load_byte, load_float, load_int, record_at, store_float
from rbe_cli.weights.matrix_record import FLOATS, OVERFLOW_TILE, TRELLIS
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, TILE_ROWS, VECTOR_BYTES
from rbe_cli.weights.trellis_layout import GROUP_TILES

_HALF_UNIT = 128  # of overflow tiles


@program_code
def add_column(arithmetic: Any, matrix: Any, column: int, out: int, scratch: int) -> None:
    """Add a column of a matrix to float32 `[K]`; `scratch` takes one unpacked tile."""
    place = load_int(matrix.places + 8 * column) if matrix.form == TRELLIS else column
    panel, lane = place // PANEL_COLUMNS, place % PANEL_COLUMNS
    if matrix.form == FLOATS:
        values = matrix.values + panel * matrix.rows * VECTOR_BYTES + 4 * lane
        for row in range(matrix.rows):
            weight = load_float(values + VECTOR_BYTES * row)
            store_float(out + 4 * row, load_float(out + 4 * row) + weight)
        return
    step = load_float(matrix.column_steps + 4 * place)
    values = first_tile(matrix, panel)
    for stored in range(matrix.tiles):
        tile, values = _unpack(arithmetic, matrix, panel, stored, values, scratch)
        own = _overflow_tile(matrix, panel, tile)
        first = tile * TILE_ROWS
        for row in range(first, min(first + TILE_ROWS, matrix.rows)):
            quad, place = (row - first) // 4, 4 * lane + row % 4
            level = load_byte(scratch + VECTOR_BYTES * quad + place) - UNPACKED_OFFSET
            if own >= 0:
                level += _overflow(matrix, own, quad, place)
            weight = np.float32(level) * step * load_float(matrix.row_steps + 4 * row)
            store_float(out + 4 * row, load_float(out + 4 * row) + weight)


@program_code
def _unpack(
    arithmetic: Any, matrix: Any, panel: int, stored: int, values: int, out: int
) -> tuple[int, int]:
    """Unpack a tile, by its place among those stored; return its number, and where it ends."""
    if matrix.form != TRELLIS:
        unpack_tile(arithmetic, matrix.layout, values, out)
        return stored, values + layout_bytes(matrix.layout)
    code = load_byte(matrix.tile_codes + panel * matrix.tiles + stored)
    width, tile = code & 15, stored - stored % GROUP_TILES + (code >> 4)
    (plane, before), own = planes_of(matrix, panel), VECTOR_BYTES * tile
    unpack_trellis_tile(arithmetic, matrix.layout, width, plane + own, before + own, values, out)
    return tile, values + VECTOR_BYTES * (width - 1)


@program_code
def _overflow_tile(matrix: Any, panel: int, tile: int) -> int:
    """Return the number of a tile's overflow tile; -1 if it has none."""
    if matrix.form == TRELLIS:
        first = load_int(matrix.overflow_starts + 8 * panel)
        for number in range(first, load_int(matrix.overflow_starts + 8 * (panel + 1))):
            if record_at(OVERFLOW_TILE, matrix.overflow_tiles, number).tile == tile:
                return number
    return -1


@program_code
def _overflow(matrix: Any, number: int, quad: int, place: int) -> int:
    """Return what an overflow tile adds to an integer."""
    own = record_at(OVERFLOW_TILE, matrix.overflow_tiles, number)
    bits = layout_bytes(own.layout) // VECTOR_BYTES
    code = overflow_code(bits, own.values, quad, place)
    return _HALF_UNIT * (2 * code - layout_offset(own.layout))
