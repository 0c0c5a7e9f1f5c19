"""Multiply a tile of codes by one token's quantised inputs (quad_products.py)."""

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from rbe_cli.kernels.linear.quad_products import (
    bytes_of_quad,
    elements,
    for_layout,
    sum_count,
    tile_products,
    tile_total,
    tuple_of,
)
from rbe_cli.runtime.simd import I64, constant, ints, kernel_intrinsic, prefetch_line
from rbe_cli.weights.panel_layout import LAYOUTS, VECTOR_BYTES, PanelLayout

_AHEAD_BYTES = 8192  # of what is prefetched: 1 / 10 microsecond at 80 GB/s


def _table_of(read: Callable[[PanelLayout], int], name: str) -> Any:
    """Return a function for kernels that reads a layout's number, by its place in `LAYOUTS`."""

    def number(typing: Any, place: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
            kind = ir.ArrayType(I64, len(LAYOUTS))
            table = ir.Constant(kind, [read(layout) for layout in LAYOUTS])
            stored = cgutils.global_constant(builder.module, f"layouts.{name}", table)
            zero = ir.Constant(I64, 0)
            return builder.load(builder.gep(stored, [zero, values[0]]))

        return types.int64(types.int64), emit

    return kernel_intrinsic(number)


layout_factor = _table_of(lambda layout: layout.factor, "factor")
layout_offset = _table_of(lambda layout: layout.offset, "offset")
layout_bytes = _table_of(lambda layout: layout.bits * VECTOR_BYTES, "bytes")  # of a tile


@kernel_intrinsic
def token_sums(typing: Any, arithmetic: Any) -> Any:
    """Return zero sums for `add_tile`."""
    result = tuple_of(ints, sum_count(arithmetic.value))

    def emit(context: Any, builder: ir.IRBuilder, *_: Any) -> ir.Value:
        return context.make_tuple(builder, result, [constant(0)] * result.count)

    return result(arithmetic), emit


@kernel_intrinsic
def add_tile(typing: Any, arithmetic: Any, layout: Any, tile: Any, x: Any, sums: Any) -> Any:
    """Return sums plus the products of a tile and of a token's quantised inputs.

    `tile` and `x` are their addresses, and `layout` is a place in `LAYOUTS`. What lies some tiles
    on is fetched into the cache.
    """
    own = arithmetic.value

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, layout, tile, x, packed = values
        before = elements(builder, packed, sums.count)

        def add(layout: PanelLayout) -> list[ir.Value]:
            _prefetch_tile(builder, layout, tile)
            quad_bytes = partial(bytes_of_quad, builder, own.instructions, layout, tile)
            return tile_products(builder, own, before, quad_bytes, layout.byte_bits, x)

        return context.make_tuple(builder, sums, for_layout(builder, layout, add))

    return sums(arithmetic, types.int64, types.int64, types.int64, sums), emit


def _prefetch_tile(builder: ir.IRBuilder, layout: PanelLayout, tile: ir.Value) -> None:
    for vector in range(layout.bits):
        address = builder.add(tile, ir.Constant(I64, _AHEAD_BYTES + VECTOR_BYTES * vector))
        prefetch_line(builder, address)


@kernel_intrinsic
def token_total(typing: Any, arithmetic: Any, sums: Any) -> Any:
    """Return the sums of products in 16 lanes (ints), of what `add_tile` has collected."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        return tile_total(builder, arithmetic.value, elements(builder, values[1], sums.count))

    return ints(arithmetic, sums), emit
