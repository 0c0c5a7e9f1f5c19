"""Compute causal attention over a paged KV cache (cache_pages.py; Vaswani et al. 2017, 3.2).

int8 goes through the kernels of matrices, with queries and weights rounded to 16 bits. A
query's result does not depend on the queries beside it: sums have one written order.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from rbe_cli.algebra.exponential_program import exp
from rbe_cli.kernels.attention.cache_pages import (
    BLOCK,
    FLOAT16,
    FLOAT32,
    PAGE_BLOCKS,
    PAGE_TILES,
    TILE_BYTES,
    cached_element,
    element_bytes,
    page_address,
)
from rbe_cli.kernels.kernel_records import CACHE, GROUP_ROWS, PAGE_POSITIONS
from rbe_cli.kernels.linear.products import panel_sum, quantise, words_of_token
from rbe_cli.kernels.linear.quad_products import UNPACKED_OFFSET, quads_at
from rbe_cli.kernels.linear.tile_dot import add_tile, token_sums, token_total
from rbe_cli.runtime.arithmetic import Choice
from rbe_cli.runtime.floating import from_half, multiply_add
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    F32,
    FLOATS,
    I64,
    LANES,
    floats,
    fused,
    kernel_intrinsic,
    lane_max,
    lane_sum,
    larger,
    load,
    load_double,
    load_float,
    load_floats,
    load_int32,
    prefetch,
    record,
    splat,
    splat_float,
    splat_int,
    store,
    store_float,
    store_floats,
    to_floats,
)
from rbe_cli.weights.panel_layout import INT_8, LAYOUTS, TILE_ROWS, VECTOR_BYTES

_FOUR, _ONE_QUERY = Choice(4), Choice(1)
_CHAINS = 4  # partial sums, by position or element modulo 4
_INT_8 = LAYOUTS.index(INT_8)
_ZERO, _LEAST = np.float32(0), np.float32(-np.inf)


def _load_cached(builder: ir.IRBuilder, kind: Any, address: ir.Value) -> ir.Value:
    """Load 16 elements as float32."""
    element, _ = cached_element(kind)
    value = load(builder, address, ir.VectorType(element, LANES))
    return value if element is F32 else from_half(builder, value)


@kernel_intrinsic
def _zero_sums(typing: Any, queries: Any) -> Any:
    """Return zero sums for `_add_scaled_rows`: four for each query."""
    result = types.UniTuple(floats, _CHAINS * queries.value)

    def emit(context: Any, builder: ir.IRBuilder, *_: Any) -> ir.Value:
        zero = ir.Constant(FLOATS, [0.0] * LANES)
        return context.make_tuple(builder, result, [zero] * result.count)

    return result(queries), emit


@kernel_intrinsic
def _add_scaled_rows(
    typing: Any, kind: Any, queries: Any, rows: Any, row_bytes: Any, factors: Any, stride: Any,
    sums: Any,
) -> Any:  # fmt: skip
    """Return sums plus four rows of 16 elements, each times its factor.

    `rows` is the address of the first row, `factors` that of the first query's four factors
    (float32); the next query's lie `stride` bytes on.
    """

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, rows, row_bytes, factors, stride, packed = values
        current = [builder.extract_value(packed, i) for i in range(sums.count)]
        for chain in range(_CHAINS):
            place = builder.add(rows, builder.mul(row_bytes, ir.Constant(I64, chain)))
            row = _load_cached(builder, kind, place)
            for query in range(queries.value):
                own = builder.add(factors, builder.mul(stride, ir.Constant(I64, query)))
                factor = splat(builder, load(builder, own, F32, 4 * chain))
                i = _CHAINS * query + chain
                current[i] = multiply_add(builder, factor, row, current[i])
        return context.make_tuple(builder, sums, current)

    address = types.int64
    return sums(kind, queries, address, types.int64, address, types.int64, sums), emit


@kernel_intrinsic
def _store_sums(typing: Any, queries: Any, sums: Any, out: Any, stride: Any) -> Any:
    """Add each query's four sums, and store the results from `out` on, every `stride` bytes."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, packed, out, stride = values
        for query in range(queries.value):
            a, b, c, d = (
                builder.extract_value(packed, _CHAINS * query + chain) for chain in range(_CHAINS)
            )
            total = builder.fadd(builder.fadd(a, b), builder.fadd(c, d))
            own = builder.add(out, builder.mul(stride, ir.Constant(I64, query)))
            store(builder, own, total)
        return context.get_dummy_value()

    return types.void(queries, sums, types.int64, types.int64), emit


@program_code
def attend(
    arithmetic: Any,
    cache: Any,
    scale: float,
    layer: int,
    head: int,
    row: int,
    position: int,
    count: int,
    query: int,
    stride: int,
    out: int,
    scratch: int,
) -> None:
    """Compute the outputs of `count` (1 or 4) successive queries, the first at `position`.

    Args (addresses, strides in bytes):
        scale: factor of the scores.
        query, stride: float32 `[count, head_dim]`.
        out: float32 `[count, head_dim]`, every `cache.out_stride` bytes.
        scratch: memory of this thread, `kernel_records.attention_bytes`.
    """
    width = cache.width
    scaled = scratch  # [4, width]
    for i in range(count):
        for d in range(width):
            value = _ZERO
            if d < cache.head_dim:
                value = load_float(query + stride * i + 4 * d) * np.float32(scale)
            store_float(scaled + 4 * (width * i + d), value)
    if cache.kind == 2:
        for i in range(count):
            _attend_codes(
                arithmetic, cache, layer, head, row, position + i, scaled + 4 * width * i,
                out + cache.out_stride * i, scratch,
            )  # fmt: skip
    elif cache.kind == 0:
        if count == 4:
            _attend_floats(FLOAT32, _FOUR, 4, cache, layer, head, row, position, out, scratch)
        else:
            _attend_floats(FLOAT32, _ONE_QUERY, 1, cache, layer, head, row, position, out, scratch)
    elif count == 4:
        _attend_floats(FLOAT16, _FOUR, 4, cache, layer, head, row, position, out, scratch)
    else:
        _attend_floats(FLOAT16, _ONE_QUERY, 1, cache, layer, head, row, position, out, scratch)


@program_code
def _fetch(cache: Any, page: int, following: int, place: int) -> None:
    """Prefetch a quarter of the page's values and of the next page's keys."""
    quarter = cache.head_bytes // 8
    for line in range(place * quarter, (place + 1) * quarter, VECTOR_BYTES):
        prefetch(page + 4 * quarter + line)
        prefetch(following + line)


@program_code
def _softmax(weights: int, length: int, blocks: int) -> Any:
    """Replace scores by exp(score - largest), with zeros to the end of the blocks.

    Returns the sum of the `length` results.
    """
    for position in range(length, blocks * BLOCK):
        store_float(weights + 4 * position, _LEAST)
    largest = splat_float(_LEAST)
    for block in range(blocks):
        largest = larger(load_floats(weights + 64 * block), largest)
    top = splat_float(lane_max(largest))
    total = splat_float(_ZERO)
    for block in range(blocks):
        power = exp(load_floats(weights + 64 * block) - top)
        if (block + 1) * BLOCK > length:
            store_floats(weights + 64 * block, power)
            for position in range(length, blocks * BLOCK):
                store_float(weights + 4 * position, _ZERO)
            power = load_floats(weights + 64 * block)
        store_floats(weights + 64 * block, power)
        total = total + power
    return lane_sum(total)


@program_code
def _copy_scaled(attended: int, factor: float, out: int, length: int) -> None:
    for i in range(length):
        store_float(out + 4 * i, load_float(attended + 4 * i) * factor)


@program_code
def _attend_floats(
    kind: Any,
    queries: Any,
    count: int,
    cache: Any,
    layer: int,
    head: int,
    row: int,
    position: int,
    out: int,
    scratch: int,
) -> None:
    width, size = cache.width, element_bytes(kind)
    attended = scratch + 16 * width  # [4, width]
    weights = attended + 16 * width  # [4, score_stride]
    stride = cache.score_stride
    blocks = (position + count + BLOCK - 1) // BLOCK
    for block in range(blocks):
        page = page_address(cache, row, block * BLOCK, layer, head)
        following = min(block * BLOCK + PAGE_POSITIONS, position)
        _fetch(cache, page, page_address(cache, row, following, layer, head), block % PAGE_BLOCKS)
        keys = page + block % PAGE_BLOCKS * width * BLOCK * size
        sums = _zero_sums(queries)
        for d in range(0, width, _CHAINS):
            sums = _add_scaled_rows(
                kind, queries, keys + d * BLOCK * size, BLOCK * size, scratch + 4 * d,
                4 * width, sums,
            )  # fmt: skip
        _store_sums(queries, sums, weights + 64 * block, stride)
    for i in range(count):
        total = _softmax(weights + stride * i, position + i + 1, blocks)
        store_float(scratch + 4 * i, np.float32(1) / total)
    for d in range(0, width, LANES):
        sums = _zero_sums(queries)
        for start in range(0, position + count, PAGE_POSITIONS):
            page = page_address(cache, row, start, layer, head)
            values = page + (PAGE_POSITIONS * width + d) * size
            stop = min(start + PAGE_POSITIONS, blocks * BLOCK)
            for place in range(start, stop, _CHAINS):
                sums = _add_scaled_rows(
                    kind, queries, values + (place - start) * width * size, width * size,
                    weights + 4 * place, stride, sums,
                )  # fmt: skip
        _store_sums(queries, sums, attended + 4 * d, 4 * width)
    for i in range(count):
        _copy_scaled(
            attended + 4 * width * i, load_float(scratch + 4 * i), out + cache.out_stride * i,
            cache.head_dim,
        )  # fmt: skip


@program_code
def _attend_codes(
    arithmetic: Any,
    cache: Any,
    layer: int,
    head: int,
    row: int,
    position: int,
    query: int,
    out: int,
    scratch: int,
) -> None:
    width, length = cache.width, position + 1
    attended = scratch + 16 * width
    weights = attended + 16 * width
    rounded = weights + 4 * cache.score_stride  # quantised queries, then weights
    blocks = (length + BLOCK - 1) // BLOCK
    panel = width // TILE_ROWS * TILE_BYTES
    scales = 2 * PAGE_POSITIONS * width
    quantise(arithmetic, query, cache.ones, width, rounded)
    for block in range(blocks):
        page = page_address(cache, row, block * BLOCK, layer, head)
        place = block % PAGE_BLOCKS
        following = min(block * BLOCK + PAGE_POSITIONS, position)
        _fetch(cache, page, page_address(cache, row, following, layer, head), place)
        keys = page + place * panel
        score = panel_sum(arithmetic, _INT_8, keys, width // TILE_ROWS, rounded)
        score = score * load_floats(page + scales + 64 * place)
        store_floats(weights + 64 * block, score)
    total = _softmax(weights, length, blocks)
    padded = (length + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    for block in range(blocks, padded // BLOCK):
        store_floats(weights + 64 * block, splat_float(_ZERO))
    for block in range(blocks):
        page = page_address(cache, row, block * BLOCK, layer, head)
        own = page + scales + 4 * PAGE_POSITIONS + 64 * (block % PAGE_BLOCKS)
        place = weights + 64 * block
        store_floats(place, load_floats(place) * load_floats(own))
    quantise(arithmetic, weights, cache.ones, padded, rounded)
    for d in range(0, width, LANES):
        offset = PAGE_POSITIONS * width + d // LANES * PAGE_TILES * TILE_BYTES
        mix = _mix_codes(arithmetic, cache, layer, head, row, padded // TILE_ROWS, offset, rounded)
        store_floats(attended + 4 * d, mix)
    _copy_scaled(attended, np.float32(1) / total, out, cache.head_dim)


@program_code
def _mix_codes(
    arithmetic: Any,
    cache: Any,
    layer: int,
    head: int,
    row: int,
    tiles: int,
    offset: int,
    rounded: int,
) -> Any:
    """Return quantised weights times one panel of values, which goes on from page to page."""
    group_tiles = GROUP_ROWS // TILE_ROWS
    groups = (tiles + group_tiles - 1) // group_tiles
    words = words_of_token(rounded, tiles)
    total = splat_float(_ZERO)
    for group in range(groups):
        sums = token_sums(arithmetic)
        for tile in range(group * group_tiles, min((group + 1) * group_tiles, tiles)):
            page = page_address(cache, row, tile * TILE_ROWS, layer, head)
            values = page + offset + tile % PAGE_TILES * TILE_BYTES
            x = quads_at(arithmetic, words, TILE_ROWS * tile)
            sums = add_tile(arithmetic, _INT_8, values, x, sums)
        scale = splat_float(load_float(rounded + 8 * group))
        correction = np.int32(UNPACKED_OFFSET * load_int32(rounded + 8 * group + 4))
        exact = token_total(arithmetic, sums) - splat_int(correction)
        total = fused(to_floats(exact), scale, total)
    return total


@program_code
def attend_program(
    arithmetic: Any, cache: int, scale: int, layer: int, head: int, row: int, position: int,
    count: int, query: int, stride: int, out: int, scratch: int,
) -> None:  # fmt: skip
    """Run `attend` for other programs, which call it by its address; `scale` is a float64's."""
    attend(
        arithmetic, record(CACHE, cache), load_double(scale), layer, head, row, position, count,
        query, stride, out, scratch,
    )  # fmt: skip
