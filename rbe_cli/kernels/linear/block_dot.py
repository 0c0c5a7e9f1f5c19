"""Multiply two unpacked panels by a block of tokens (quad_products.py).

The panels' tiles are first unpacked into one vector of bytes a quad, which serves all blocks.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from rbe_cli.kernels.linear.quad_products import (
    QUADS,
    UNPACKED_OFFSET,
    add_products,
    bytes_of_quad,
    constant,
    elements,
    for_layout,
    total_of,
    tuple_of,
    words_of,
)
from rbe_cli.runtime.floating import multiply_add
from rbe_cli.runtime.simd import (
    F32,
    FLOATS,
    I32,
    I64,
    INTS,
    ints,
    kernel_intrinsic,
    load,
    splat,
    store,
)
from rbe_cli.weights.panel_layout import VECTOR_BYTES, PanelLayout


def _at(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, index: int) -> ir.Value:
    return builder.add(address, builder.mul(stride, ir.Constant(I64, index)))


@kernel_intrinsic
def unpack_tile(typing: Any, arithmetic: Any, layout: Any, tile: Any, out: Any) -> Any:
    """Write a tile's 8 quads as bytes of offset `UNPACKED_OFFSET`, a vector each, to `out`."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, layout, tile, out = values

        def unpack(layout: PanelLayout) -> list[ir.Value]:
            for quad in range(QUADS):
                instructions = arithmetic.value.instructions
                codes = bytes_of_quad(builder, instructions, layout, tile, quad)
                shift = (UNPACKED_OFFSET - layout.offset) * 0x01010101  # no byte overflows
                codes = builder.add(codes, constant(shift))
                store(builder, builder.add(out, ir.Constant(I64, VECTOR_BYTES * quad)), codes)
            return []

        for_layout(builder, layout, unpack)
        return context.get_dummy_value()

    return types.void(arithmetic, types.int64, types.int64, types.int64), emit


@kernel_intrinsic
def block_sums(typing: Any, arithmetic: Any, tokens: Any, header: Any, stride: Any) -> Any:
    """Return sums for `add_quad`: -UNPACKED_OFFSET * (sum of a token's quantised inputs) each.

    `header` is the address of the first token's group (float32 scale, int32 sum); the next
    token's lies `stride` bytes on.
    """
    halves, count = arithmetic.value.halves, tokens.value
    result = tuple_of(ints, count * 2 * halves)

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, header, stride = values
        sums = []
        for token in range(count):
            own = load(builder, _at(builder, header, stride, token), I32, 4)
            start = splat(builder, builder.mul(own, ir.Constant(I32, -UNPACKED_OFFSET)))
            sums += 2 * [*[constant(0)] * (halves - 1), start]
        return context.make_tuple(builder, result, sums)

    return result(arithmetic, tokens, types.int64, types.int64), emit


@kernel_intrinsic
def add_quad(
    typing: Any, arithmetic: Any, tokens: Any, first: Any, second: Any, x: Any, stride: Any,
    sums: Any,
) -> Any:  # fmt: skip
    """Return sums plus the products of a quad of two panels and a block of tokens.

    `first` and `second` are the addresses of the panels' quads.

    `x` is the address of the first token's quantised inputs; the next token's lie `stride` bytes
    on.
    """
    own, halves = arithmetic.value, arithmetic.value.halves

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, first, second, x, stride, packed = values
        current = elements(builder, packed, sums.count)
        panels = [load(builder, address, INTS) for address in (first, second)]
        for token in range(tokens.value):
            words = words_of(builder, own, _at(builder, x, stride, token))
            for panel, codes in enumerate(panels):
                start = halves * (2 * token + panel)
                part = slice(start, start + halves)
                current[part] = add_products(builder, own, current[part], codes, words)
        return context.make_tuple(builder, sums, current)

    address = types.int64
    return sums(arithmetic, tokens, address, address, address, types.int64, sums), emit


@kernel_intrinsic
def add_block(
    typing: Any, arithmetic: Any, tokens: Any, sums: Any, header: Any, stride: Any, totals: Any
) -> Any:
    """Add scale * sums to totals (address of float32 `[tokens, 2, 16]`); `header` as above."""
    own, halves = arithmetic.value, arithmetic.value.halves

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, packed, header, stride, totals = values
        current = elements(builder, packed, sums.count)
        for token in range(tokens.value):
            scale = splat(builder, load(builder, _at(builder, header, stride, token), F32))
            for panel in range(2):
                place = 2 * token + panel
                part = current[halves * place : halves * (place + 1)]
                product = builder.sitofp(total_of(builder, own, part), FLOATS)
                address = builder.add(totals, ir.Constant(I64, VECTOR_BYTES * place))
                before = load(builder, address, FLOATS)
                after = multiply_add(builder, product, scale, before)
                store(builder, address, after)
        return context.get_dummy_value()

    address = types.int64
    return types.void(arithmetic, tokens, sums, address, types.int64, address), emit
