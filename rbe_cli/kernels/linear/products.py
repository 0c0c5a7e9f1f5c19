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
    layout_offset,
    token_sums,
    token_total,
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
    load_byte,
    load_float,
    load_floats,
    load_int,
    load_int32,
    record_at,
    round_to_even,
    splat_float,
    splat_int,
    store_float,
    store_floats,
    store_int32,
    to_floats,
    to_ints,
)
from rbe_cli.weights.matrix_record import OVERFLOW_TILE
from rbe_cli.weights.panel_layout import TILE_ROWS, VECTOR_BYTES

_TWO, _ONE = Choice(2), Choice(1)  # tokens of a block
_GROUP_TILES = GROUP_ROWS // TILE_ROWS
_ZERO = np.float32(0)
_OVERFLOW_UNIT = np.float32(256)
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
    words = words_of_token(x, tiles)
    total = splat_float(_ZERO)
    for group in range(groups):
        sums = token_sums(arithmetic)
        for tile in range(group * _GROUP_TILES, min((group + 1) * _GROUP_TILES, tiles)):
            place = quads_at(arithmetic, words, TILE_ROWS * tile)
            sums = add_tile(arithmetic, layout, values + tile * tile_bytes, place, sums)
        correction = np.int32(offset * load_int32(x + 8 * group + 4))
        exact = token_total(arithmetic, sums) - splat_int(correction)
        total = fused(to_floats(exact), splat_float(load_float(x + 8 * group)), total)
    return total


@program_code
def _mixed_sum(arithmetic: Any, layouts: int, values: int, tiles: int, x: int) -> Any:
    """Return the same as `panel_sum`, for tiles whose layouts lie at an address."""
    groups = (tiles + _GROUP_TILES - 1) // _GROUP_TILES
    tile_sums = x + 8 * groups
    words = words_of_token(x, tiles)
    total = splat_float(_ZERO)
    for group in range(groups):
        sums, correction = token_sums(arithmetic), 0
        for tile in range(group * _GROUP_TILES, min((group + 1) * _GROUP_TILES, tiles)):
            layout = load_byte(layouts + tile)
            correction += layout_offset(layout) * load_int32(tile_sums + 4 * tile)
            place = quads_at(arithmetic, words, TILE_ROWS * tile)
            sums = add_tile(arithmetic, layout, values, place, sums)
            values += layout_bytes(layout)
        exact = token_total(arithmetic, sums) - splat_int(np.int32(correction))
        total = fused(to_floats(exact), splat_float(load_float(x + 8 * group)), total)
    return total


@program_code
def add_overflow(arithmetic: Any, matrix: Any, panel: int, x: int, total: Any) -> Any:
    """Return the sum plus the panel's tiles of multiples of 256."""
    first = load_int(matrix.overflow_starts + 8 * panel)
    last = load_int(matrix.overflow_starts + 8 * (panel + 1))
    if first == last:
        return total
    tile_sums = x + 8 * ((matrix.tiles + _GROUP_TILES - 1) // _GROUP_TILES)
    words = words_of_token(x, matrix.tiles)
    overflow = splat_float(_ZERO)
    for number in range(first, last):
        own = record_at(OVERFLOW_TILE, matrix.overflow_tiles, number)
        place = quads_at(arithmetic, words, TILE_ROWS * own.tile)
        sums = add_tile(arithmetic, own.layout, own.values, place, token_sums(arithmetic))
        correction = layout_offset(own.layout) * load_int32(tile_sums + 4 * own.tile)
        exact = token_total(arithmetic, sums) - splat_int(np.int32(correction))
        scale = splat_float(load_float(x + 8 * (own.tile // _GROUP_TILES)))
        overflow = fused(to_floats(exact), scale, overflow)
    return fused(overflow, splat_float(_OVERFLOW_UNIT), total)


@program_code
def one_token(arithmetic: Any, matrix: Any, operands: Any, first: int, last: int) -> None:
    x = operands.quantised_inputs
    for panel in range(first, last):
        values = matrix.values + load_int(matrix.starts + 8 * panel)
        if matrix.layout >= 0:
            total = panel_sum(arithmetic, matrix.layout, values, matrix.tiles, x)
        else:
            layouts = matrix.layouts + panel * matrix.tiles
            total = _mixed_sum(arithmetic, layouts, values, matrix.tiles, x)
            total = add_overflow(arithmetic, matrix, panel, x, total)
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
        for quad in range(quads):
            x = quads_at(arithmetic, words, 4 * quad)
            place = values + quad_stride(arithmetic) * quad
            sums = add_quad(arithmetic, tokens, place, x, stride, sums)
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
def _unpack_group(
    arithmetic: Any, matrix: Any, panel: int, start: int, stop: int, values: int, out: int
) -> int:
    """Unpack a panel's tiles, the first of which is at `values`; return where they end."""
    for tile in range(start, stop):
        layout = load_byte(matrix.layouts + panel * matrix.tiles + tile)
        place = out + 8 * quad_stride(arithmetic) * (tile - start)
        prepare_tile(arithmetic, layout, values, place)
        values += layout_bytes(layout)
    return values


@program_code
def _two_panels(arithmetic: Any, matrix: Any, operands: Any, panel: int, other: int) -> None:
    """Multiply all tokens by two panels; sums `[tokens, 2, 16]` go after the unpacked group."""
    tiles, scratch = matrix.tiles, operands.scratch
    groups = (tiles + _GROUP_TILES - 1) // _GROUP_TILES
    totals = scratch + 2 * UNPACKED_BYTES
    for vector in range(2 * operands.tokens):
        store_floats(totals + VECTOR_BYTES * vector, splat_float(_ZERO))
    values = matrix.values + load_int(matrix.starts + 8 * panel)
    others = matrix.values + load_int(matrix.starts + 8 * other)
    for group in range(groups):
        start = group * _GROUP_TILES
        stop = min(start + _GROUP_TILES, tiles)
        values = _unpack_group(arithmetic, matrix, panel, start, stop, values, scratch)
        second = scratch + UNPACKED_BYTES
        others = _unpack_group(arithmetic, matrix, other, start, stop, others, second)
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
                if matrix.layout < 0:
                    total = add_overflow(arithmetic, matrix, panel + own, x, total)
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
