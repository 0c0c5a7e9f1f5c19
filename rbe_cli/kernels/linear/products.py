"""Compute out = x W + bias for a matrix in panels, exactly but for the rounding of x.

The steps of rows are multiplied into x, which is then rounded, 256 rows at a time, to integers
within +-32512 (or +-127: int8 activations) of a scale of their own. A group's products are summed
without rounding (quad_products.py), times its scale in float32, group after group: an output
depends neither on the threads, nor on the tokens beside it, nor on the instruction set.

One token reads packed codes on their way from memory. For more, a group of two panels is
unpacked into the L1 cache and serves all tokens.
"""

from typing import Any

import numpy as np

from rbe_cli.kernels.kernel_records import GROUP_ROWS, PAIR_ROWS, UNPACKED_BYTES
from rbe_cli.kernels.linear.block_dot import (
    add_block,
    add_quad,
    block_panels,
    block_sums,
    block_tokens,
    input_stride,
    number_of,
    prepare_tile,
    quad_stride,
)
from rbe_cli.kernels.linear.operands import finish
from rbe_cli.kernels.linear.quad_products import (
    input_limit,
    quads_at,
    store_quads,
)
from rbe_cli.kernels.linear.tile_dot import (
    add_tile,
    layout_bytes,
    layout_factor,
    layout_offset,
    token_sums,
    token_total,
)
from rbe_cli.kernels.linear.trellis_sums import (
    add_overflow,
    prepare_trellis_tiles,
    trellis_sum,
)
from rbe_cli.runtime.arithmetic import Choice
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    absolute,
    fused,
    lane_max,
    lane_sum,
    lane_sum_ints,
    larger,
    load_float,
    load_floats,
    load_int,
    load_int32,
    round_to_even,
    splat_float,
    splat_int,
    store_float,
    store_floats,
    store_int32,
    to_floats,
    to_ints,
)
from rbe_cli.weights.matrix_record import TRELLIS
from rbe_cli.weights.panel_layout import TILE_ROWS, VECTOR_BYTES

_TWO, _ONE = Choice(2), Choice(1)  # tokens of a block
_PAIR_QUADS = PAIR_ROWS // 4
_GROUP_TILES = GROUP_ROWS // TILE_ROWS
_ZERO = np.float32(0)
_SMALLEST = np.float32(1e-34)  # whose inverse, times a limit, is still finite


@program_code
def words_of_token(x: int, tiles: int) -> int:
    """Return where the quantised inputs begin in what `quantise` has written at `x`."""
    groups = (tiles + _GROUP_TILES - 1) // _GROUP_TILES
    return x + (8 * groups + 4 * tiles + VECTOR_BYTES - 1) // VECTOR_BYTES * VECTOR_BYTES


@program_code
def quantise(arithmetic: Any, x: int, steps: int, rows: int, out: int) -> None:
    """Round one token's inputs; `x` and `steps` are read to a multiple of 32 rows.

    Written are each group's scale (float32) and sum (int32), each tile's sum (int32), and from
    the next whole line on the quantised inputs, 64 bytes a tile (int8: 32), with zeros to a whole
    pair of tiles. What is not finite gives a group a scale that is not a number.
    """
    limit = input_limit(arithmetic)
    groups = (rows + GROUP_ROWS - 1) // GROUP_ROWS
    padded = (rows + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    tile_sums = out + 8 * groups
    words = words_of_token(out, padded // TILE_ROWS)
    for group in range(groups):
        first = group * GROUP_ROWS
        last = min(first + GROUP_ROWS, padded)
        largest, not_finite = splat_float(_ZERO), splat_float(_ZERO)
        for row in range(first, last, 16):
            value = load_floats(x + 4 * row) * load_floats(steps + 4 * row)
            largest = larger(absolute(value), largest)
            not_finite = not_finite + (value - value)
        top = lane_max(largest)
        inverse = splat_float(limit / top if top > _SMALLEST else _ZERO)
        group_sum = np.int32(0)
        for tile in range(first, last, TILE_ROWS):
            sums = splat_int(0)
            for row in range(tile, tile + TILE_ROWS, 16):
                value = load_floats(x + 4 * row) * load_floats(steps + 4 * row)
                rounded = to_ints(round_to_even(value * inverse))
                sums = sums + rounded
                store_quads(arithmetic, quads_at(arithmetic, words, row), rounded)
            tile_sum = lane_sum_ints(sums)
            store_int32(tile_sums + tile // TILE_ROWS * 4, tile_sum)
            group_sum += tile_sum
        store_float(out + 8 * group, top / limit + lane_sum(not_finite))
        store_int32(out + 8 * group + 4, group_sum)
    for row in range(padded, padded + padded % PAIR_ROWS, 16):
        store_quads(arithmetic, quads_at(arithmetic, words, row), splat_int(0))


@program_code
def panel_sum(arithmetic: Any, layout: int, values: int, tiles: int, x: int) -> Any:
    """Return one token times one panel of tiles of one layout: 16 outputs without their steps."""
    groups = (tiles + _GROUP_TILES - 1) // _GROUP_TILES
    tile_bytes, offset = layout_bytes(layout), layout_offset(layout)
    factor = splat_int(np.int32(layout_factor(layout)))
    words = words_of_token(x, tiles)
    total = splat_float(_ZERO)
    for group in range(groups):
        sums = token_sums(arithmetic)
        for tile in range(group * _GROUP_TILES, min((group + 1) * _GROUP_TILES, tiles)):
            place = quads_at(arithmetic, words, TILE_ROWS * tile)
            sums = add_tile(arithmetic, layout, values + tile * tile_bytes, place, sums)
        correction = np.int32(offset * load_int32(x + 8 * group + 4))
        exact = token_total(arithmetic, sums) * factor - splat_int(correction)
        total = fused(to_floats(exact), splat_float(load_float(x + 8 * group)), total)
    return total


@program_code
def one_token(arithmetic: Any, matrix: Any, operands: Any, first: int, last: int) -> None:
    x, words = operands.quantised_inputs, words_of_token(operands.quantised_inputs, matrix.tiles)
    for panel in range(first, last):
        if matrix.form == TRELLIS:
            total = trellis_sum(arithmetic, matrix, panel, x, words)
        else:
            values = matrix.values + load_int(matrix.starts + 8 * panel)
            total = panel_sum(arithmetic, matrix.layout, values, matrix.tiles, x)
        finish(matrix, panel, total, operands, 0)


@program_code
def _block(
    arithmetic: Any, tokens: Any, quads: int, scratch: int, header: int, words: int, stride: int,
    totals: int,
) -> None:  # fmt: skip
    """Add a block of tokens times a group of two unpacked panels to totals."""
    for panel in range(0, 2, block_panels(arithmetic, tokens)):
        sums = block_sums(arithmetic, tokens, header, stride)
        values = scratch + UNPACKED_BYTES * panel
        for start in range(0, quads, _PAIR_QUADS):
            x = quads_at(arithmetic, words, 4 * start)
            for quad in range(start, min(start + _PAIR_QUADS, quads)):
                own_x = x + input_stride(arithmetic) * (quad - start)
                place = values + quad_stride(arithmetic) * quad
                sums = add_quad(arithmetic, tokens, place, own_x, stride, sums)
        add_block(arithmetic, tokens, sums, header, stride, totals + VECTOR_BYTES * panel)


@program_code
def _blocks(
    arithmetic: Any, operands: Any, quads: int, header: int, words: int, totals: int
) -> None:
    """Add all tokens times a group of two unpacked panels to totals."""
    count, stride, scratch = operands.tokens, operands.stride, operands.scratch
    largest = block_tokens(arithmetic)
    token = 0
    while token < count:
        h, w = header + token * stride, words + token * stride
        place = totals + 2 * VECTOR_BYTES * token
        if token + number_of(largest) <= count:
            _block(arithmetic, largest, quads, scratch, h, w, stride, place)
            token += number_of(largest)
        elif token + 2 <= count:
            _block(arithmetic, _TWO, quads, scratch, h, w, stride, place)
            token += 2
        else:
            _block(arithmetic, _ONE, quads, scratch, h, w, stride, place)
            token += 1


@program_code
def prepare_group(
    arithmetic: Any, matrix: Any, panel: int, start: int, stop: int, values: int, out: int
) -> int:
    """Unpack tiles for a block of tokens, the first at `values`; return where the last ends."""
    if matrix.form == TRELLIS:
        return prepare_trellis_tiles(arithmetic, matrix, panel, start, stop, values, out)
    for tile in range(start, stop):
        prepare_tile(
            arithmetic, matrix.layout, values, out + 8 * quad_stride(arithmetic) * (tile - start)
        )
        values += layout_bytes(matrix.layout)
    return values


@program_code
def first_tile(matrix: Any, panel: int) -> int:
    """Return where a panel's tiles begin, of a trellis after their planes."""
    start = matrix.values + load_int(matrix.starts + 8 * panel)
    return start + VECTOR_BYTES * matrix.tiles if matrix.form == TRELLIS else start


@program_code
def _two_panels(arithmetic: Any, matrix: Any, operands: Any, panel: int, other: int) -> None:
    """Multiply all tokens by two panels; sums `[tokens, 2, 16]` go after the unpacked group."""
    tiles, scratch = matrix.tiles, operands.scratch
    groups = (tiles + _GROUP_TILES - 1) // _GROUP_TILES
    totals = scratch + 2 * UNPACKED_BYTES
    for vector in range(2 * operands.tokens):
        store_floats(totals + VECTOR_BYTES * vector, splat_float(_ZERO))
    values, others = first_tile(matrix, panel), first_tile(matrix, other)
    for group in range(groups):
        start = group * _GROUP_TILES
        stop = min(start + _GROUP_TILES, tiles)
        values = prepare_group(arithmetic, matrix, panel, start, stop, values, scratch)
        second = scratch + UNPACKED_BYTES
        others = prepare_group(arithmetic, matrix, other, start, stop, others, second)
        header = operands.quantised_inputs + 8 * group
        words = words_of_token(operands.quantised_inputs, tiles)
        words = quads_at(arithmetic, words, GROUP_ROWS * group)
        _blocks(arithmetic, operands, 8 * (stop - start), header, words, totals)


@program_code
def many_tokens(arithmetic: Any, matrix: Any, operands: Any, first: int, last: int) -> None:
    totals = operands.scratch + 2 * UNPACKED_BYTES
    for panel in range(first, last, 2):
        pair = min(2, last - panel)
        _two_panels(arithmetic, matrix, operands, panel, panel + pair - 1)
        for token in range(operands.tokens):
            x = operands.quantised_inputs + token * operands.stride
            for own in range(pair):
                total = load_floats(totals + VECTOR_BYTES * (2 * token + own))
                if matrix.form == TRELLIS:
                    words = words_of_token(x, matrix.tiles)
                    total = add_overflow(arithmetic, matrix, panel + own, x, words, total)
                finish(matrix, panel + own, total, operands, token)


@program_code
def multiply_floats(matrix: Any, operands: Any, first: int, last: int) -> None:
    """Multiply panels of float32, in float32."""
    for panel in range(first, last):
        values = matrix.values + panel * matrix.rows * VECTOR_BYTES
        for token in range(operands.tokens):
            x = operands.x + token * operands.x_stride
            total = splat_float(_ZERO)
            for row in range(matrix.rows):
                weights = load_floats(values + VECTOR_BYTES * row)
                total = fused(splat_float(load_float(x + 4 * row)), weights, total)
            finish(matrix, panel, total, operands, token)
