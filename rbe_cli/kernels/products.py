"""out = x W + bias for a matrix in panels, exact but for the rounding of x to 16 bits.

The steps of rows are multiplied into x, which is then rounded, 256 rows at a time, to integers
within +-32512 (or +-127: "coarse") of a scale of their own. A group's products are summed
without rounding (dot.py), times its scale in float32, group after group: an output depends
neither on the threads, nor on the tokens beside it, nor on the instruction set.

One token reads packed codes on their way from memory. For more, a group of two panels is
unpacked into the L1 cache and serves all tokens.
"""

from typing import Any, NamedTuple

import numpy as np

from rbe_cli.codec.panels import TILE_ROWS, VECTOR_BYTES
from rbe_cli.jit import native_jit
from rbe_cli.kernels.dot import (
    Choice,
    add_block,
    add_quad,
    add_tile,
    block_sums,
    halves_of,
    store_quads,
    token_sums,
    token_total,
    unpack_tile,
)
from rbe_cli.kernels.records import FLOAT_LAYOUT, GROUP_ROWS
from rbe_cli.kernels.simd import (
    absolute,
    fused,
    lane_max,
    lane_sum,
    lane_sum_ints,
    larger,
    load_float,
    load_floats,
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

_SIX, _TWO, _ONE = Choice(6), Choice(2), Choice(1)  # tokens of a block
_GROUP_TILES = GROUP_ROWS // TILE_ROWS
_UNPACKED_TILE = 8 * VECTOR_BYTES
_UNPACKED = _GROUP_TILES * _UNPACKED_TILE  # bytes of a panel's group
_ZERO = np.float32(0)


class Operands(NamedTuple):
    """What a matrix is multiplied by, and where to: addresses, and strides in bytes.

    Attributes:
        tokens: how many.
        x, x_stride: float32, for weights in float32.
        activations, stride: the same as `quantise` writes it, for all others.
        out, out_stride: float32, writable to N'.
        accumulate: add to what `out` holds.
        scratch: of this thread, records.scratch_bytes(tokens).
    """

    tokens: int
    x: int
    x_stride: int
    activations: int
    stride: int
    out: int
    out_stride: int
    accumulate: bool
    scratch: int


@native_jit
def share(count: int, part: int, parts: int) -> Any:
    """The first of `part`'s share of `count` things."""
    return count * part // parts


@native_jit
def quantise(arithmetic: Any, x: int, steps: int, rows: int, out: int) -> None:
    """Round one token's activations; `x` and `steps` are read to a multiple of 32 rows.

    What is not finite gives a group a scale that is not a number.
    """
    halves = halves_of(arithmetic)
    limit = np.float32(32512) if halves == 2 else np.float32(127)
    groups = (rows + GROUP_ROWS - 1) // GROUP_ROWS
    padded = (rows + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    words = out + 8 * groups
    for group in range(groups):
        first = group * GROUP_ROWS
        last = min(first + GROUP_ROWS, padded)
        largest, not_finite = splat_float(_ZERO), splat_float(_ZERO)
        for row in range(first, last, 16):
            value = load_floats(x + 4 * row) * load_floats(steps + 4 * row)
            largest = larger(absolute(value), largest)
            not_finite = not_finite + (value - value)
        top = lane_max(largest)
        inverse = splat_float(limit / top if top > 0 else _ZERO)
        sums = splat_int(0)
        for row in range(first, last, 16):
            value = load_floats(x + 4 * row) * load_floats(steps + 4 * row)
            rounded = to_ints(round_to_even(value * inverse))
            sums = sums + rounded
            store_quads(arithmetic, words + halves * row, rounded)
        store_float(out + 8 * group, top / limit + lane_sum(not_finite))
        store_int32(out + 8 * group + 4, lane_sum_ints(sums))


@native_jit
def panel_sum(arithmetic: Any, matrix: Any, panel: int, x: int) -> Any:
    """One token times one panel (addresses), 16 outputs without their steps."""
    tiles, tile_bytes = matrix.tiles, matrix.bits * VECTOR_BYTES
    groups = (tiles + _GROUP_TILES - 1) // _GROUP_TILES
    words = x + 8 * groups
    total = splat_float(_ZERO)
    for group in range(groups):
        start = np.int32(-matrix.offset * load_int32(x + 8 * group + 4))
        sums = token_sums(arithmetic, start)
        for tile in range(group * _GROUP_TILES, min((group + 1) * _GROUP_TILES, tiles)):
            sums = add_tile(
                arithmetic, matrix.layout, panel + tile * tile_bytes,
                words + halves_of(arithmetic) * TILE_ROWS * tile, sums,
            )  # fmt: skip
        scale = splat_float(load_float(x + 8 * group))
        total = fused(to_floats(token_total(arithmetic, sums)), scale, total)
    return total


@native_jit
def _finish(matrix: Any, panel: int, total: Any, operands: Any, token: int) -> None:
    """16 outputs = total * steps + bias, or added to what they hold."""
    column = panel * VECTOR_BYTES
    out = operands.out + token * operands.out_stride + column
    steps, bias = load_floats(matrix.column_steps + column), load_floats(matrix.bias + column)
    result = fused(total, steps, bias)
    if operands.accumulate:
        result = result + load_floats(out)
    store_floats(out, result)


@native_jit
def _one_token(arithmetic: Any, matrix: Any, operands: Any, first: int, last: int) -> None:
    size = matrix.tiles * matrix.bits * VECTOR_BYTES
    for panel in range(first, last):
        values = matrix.values + panel * size
        total = panel_sum(arithmetic, matrix, values, operands.activations)
        _finish(matrix, panel, total, operands, 0)


@native_jit
def _block(
    arithmetic: Any,
    tokens: Any,
    offset: int,
    quads: int,
    scratch: int,
    header: int,
    words: int,
    stride: int,
    totals: int,
) -> None:
    """totals += a block of tokens times a group of two unpacked panels."""
    sums = block_sums(arithmetic, tokens, offset, header, stride)
    for quad in range(quads):
        values, x = scratch + VECTOR_BYTES * quad, words + 4 * halves_of(arithmetic) * quad
        sums = add_quad(arithmetic, tokens, values, values + _UNPACKED, x, stride, sums)
    add_block(arithmetic, tokens, sums, header, stride, totals)


@native_jit
def _two_panels(arithmetic: Any, matrix: Any, operands: Any, panel: int, other: int) -> None:
    """All tokens times two panels: sums `[tokens, 2, 16]` after the unpacked group."""
    count, stride, scratch = operands.tokens, operands.stride, operands.scratch
    tiles, tile_bytes = matrix.tiles, matrix.bits * VECTOR_BYTES
    groups = (tiles + _GROUP_TILES - 1) // _GROUP_TILES
    size = tiles * tile_bytes
    totals = scratch + 2 * _UNPACKED
    for vector in range(2 * count):
        store_floats(totals + VECTOR_BYTES * vector, splat_float(_ZERO))
    for group in range(groups):
        start = group * _GROUP_TILES
        stop = min(start + _GROUP_TILES, tiles)
        for tile in range(start, stop):
            place = scratch + _UNPACKED_TILE * (tile - start)
            values = matrix.values + tile * tile_bytes
            unpack_tile(arithmetic, matrix.layout, values + panel * size, place)
            unpack_tile(arithmetic, matrix.layout, values + other * size, place + _UNPACKED)
        offset, quads = matrix.offset, 8 * (stop - start)
        header = operands.activations + 8 * group
        words = operands.activations + 8 * groups + halves_of(arithmetic) * GROUP_ROWS * group
        token = 0
        while token < count:
            h, w = header + token * stride, words + token * stride
            place = totals + 2 * VECTOR_BYTES * token
            if token + 6 <= count:
                _block(arithmetic, _SIX, offset, quads, scratch, h, w, stride, place)
                token += 6
            elif token + 2 <= count:
                _block(arithmetic, _TWO, offset, quads, scratch, h, w, stride, place)
                token += 2
            else:
                _block(arithmetic, _ONE, offset, quads, scratch, h, w, stride, place)
                token += 1


@native_jit
def _tokens(arithmetic: Any, matrix: Any, operands: Any, first: int, last: int) -> None:
    totals = operands.scratch + 2 * _UNPACKED
    for panel in range(first, last, 2):
        other = min(panel + 1, last - 1)
        _two_panels(arithmetic, matrix, operands, panel, other)
        for token in range(operands.tokens):
            place = totals + 2 * VECTOR_BYTES * token
            _finish(matrix, panel, load_floats(place), operands, token)
            if other > panel:
                _finish(matrix, other, load_floats(place + VECTOR_BYTES), operands, token)


@native_jit
def _floats(matrix: Any, operands: Any, first: int, last: int) -> None:
    """Panels of float32, in float32."""
    for panel in range(first, last):
        values = matrix.values + panel * matrix.rows * VECTOR_BYTES
        for token in range(operands.tokens):
            x = operands.x + token * operands.x_stride
            total = splat_float(_ZERO)
            for row in range(matrix.rows):
                weights = load_floats(values + VECTOR_BYTES * row)
                total = fused(splat_float(load_float(x + 4 * row)), weights, total)
            _finish(matrix, panel, total, operands, token)


@native_jit
def multiply(arithmetic: Any, matrix: Any, operands: Any, first: int, last: int) -> None:
    """Panels `first` to `last` of a matrix (records.MATRIX) times `operands`."""
    if matrix.layout == FLOAT_LAYOUT:
        _floats(matrix, operands, first, last)
    elif operands.tokens == 1:
        _one_token(arithmetic, matrix, operands, first, last)
    else:
        _tokens(arithmetic, matrix, operands, first, last)
