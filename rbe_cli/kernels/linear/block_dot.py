"""Multiply two unpacked panels by a block of tokens (quad_products.py).

The panels' tiles are first unpacked, quad by quad, which serves all blocks. A block's sums stay in
registers: so a CPU with few multiplies one panel after the other.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from rbe_cli.kernels.kernel_records import UNPACKED_BYTES
from rbe_cli.kernels.linear.quad_products import (
    UNPACKED_OFFSET,
    Products,
    bytes_of_quad,
    elements,
    for_layout,
    products_of,
    shifted,
    tuple_of,
)
from rbe_cli.runtime.arithmetic import choice_type
from rbe_cli.runtime.floating import multiply_add
from rbe_cli.runtime.simd import (
    F32,
    FLOATS,
    I32,
    I64,
    INTS,
    constant,
    ints,
    kernel_intrinsic,
    load,
    splat,
    store,
)
from rbe_cli.weights.panel_layout import QUADS, VECTOR_BYTES, PanelLayout

_PANELS = 2


def _at(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, index: int) -> ir.Value:
    return builder.add(address, builder.mul(stride, ir.Constant(I64, index)))


def write_centred(builder: ir.IRBuilder, codes: ir.Value, offset: int, out: ir.Value) -> None:
    """Write bytes that stand for byte - offset with the offset `UNPACKED_OFFSET`."""
    shift = (UNPACKED_OFFSET - offset) * 0x01010101  # no byte overflows
    store(builder, out, builder.add(codes, constant(shift)))


@kernel_intrinsic
def unpack_tile(typing: Any, arithmetic: Any, layout: Any, tile: Any, out: Any) -> Any:
    """Write a tile's 8 quads as bytes of offset `UNPACKED_OFFSET`, a vector each, to `out`."""
    return _unpacking(arithmetic, write_centred, VECTOR_BYTES)


@kernel_intrinsic
def prepare_tile(typing: Any, arithmetic: Any, layout: Any, tile: Any, out: Any) -> Any:
    """Write a tile's 8 quads as `add_quad` takes them."""
    products = products_of(arithmetic.value)
    return _unpacking(arithmetic, products.unpack, products.unpacked_bytes)


def _unpacking(arithmetic: Any, write: Callable[..., None], quad_stride: int) -> Any:
    """Return a function that unpacks a tile, with its signature."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, layout, tile, out = values

        def unpack(layout: PanelLayout) -> list[ir.Value]:
            for quad in range(QUADS):
                instructions = arithmetic.value.instructions
                codes = bytes_of_quad(builder, instructions, layout, tile, quad)
                codes = shifted(builder, codes, 1 - layout.factor)  # no byte overflows
                place = builder.add(out, ir.Constant(I64, quad_stride * quad))
                write(builder, codes, layout.offset, place)
            return []

        for_layout(builder, layout, unpack)
        return context.get_dummy_value()

    return types.void(arithmetic, types.int64, types.int64, types.int64), emit


@kernel_intrinsic
def quad_stride(typing: Any, arithmetic: Any) -> Any:
    """Return the bytes of a quad that `prepare_tile` writes."""
    value = ir.Constant(I64, products_of(arithmetic.value).unpacked_bytes)
    return types.int64(arithmetic), lambda *_: value


@kernel_intrinsic
def input_stride(typing: Any, arithmetic: Any) -> Any:
    """Return the bytes from a quad's inputs to those of the next, of the same 64 rows."""
    value = ir.Constant(I64, products_of(arithmetic.value).input_stride)
    return types.int64(arithmetic), lambda *_: value


@kernel_intrinsic
def block_tokens(typing: Any, arithmetic: Any) -> Any:
    """Return how many tokens the largest block has (`Choice`)."""
    found = choice_type(products_of(arithmetic.value).block_tokens)
    return found(arithmetic), lambda context, *_: context.get_dummy_value()


@kernel_intrinsic
def block_panels(typing: Any, arithmetic: Any, tokens: Any) -> Any:
    """Return how many panels a block has, for a number of tokens (`Choice`)."""
    value = ir.Constant(I64, _panels(products_of(arithmetic.value), tokens.value))
    return types.int64(arithmetic, tokens), lambda *_: value


@kernel_intrinsic
def number_of(typing: Any, choice: Any) -> Any:
    """Return the number of a `Choice`."""
    value = ir.Constant(I64, choice.value)
    return types.int64(choice), lambda *_: value


def _panels(products: Products, tokens: int) -> int:
    """Return how many panels' sums fit in the registers."""
    sums = _PANELS * products.block_sum_count * tokens
    return _PANELS if sums <= products.block_sums else 1


@kernel_intrinsic
def block_sums(typing: Any, arithmetic: Any, tokens: Any, header: Any, stride: Any) -> Any:
    """Return sums for `add_quad`, of all tokens and panels of a block.

    `header` is the address of the first token's group (float32 scale, int32 sum); the next
    token's lies `stride` bytes on.
    """
    products, count = products_of(arithmetic.value), tokens.value
    panels = _panels(products, count)
    result = tuple_of(ints, count * panels * products.block_sum_count)

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, header, stride = values
        sums = []
        for token in range(count):
            group_sum = load(builder, _at(builder, header, stride, token), I32, 4)
            sums += panels * products.start(builder, group_sum)
        return context.make_tuple(builder, result, sums)

    return result(arithmetic, tokens, types.int64, types.int64), emit


@kernel_intrinsic
def add_quad(
    typing: Any, arithmetic: Any, tokens: Any, quad: Any, x: Any, stride: Any, sums: Any
) -> Any:
    """Return sums plus the products of a quad of the block's panels and tokens.

    `quad` is the address of the first panel's quad, and `x` that of the first token's quantised
    inputs; the next token's lie `stride` bytes on.
    """
    products = products_of(arithmetic.value)
    panels, count = _panels(products, tokens.value), products.block_sum_count

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, quad, x, stride, packed = values
        current = elements(builder, packed, sums.count)
        for part in range(products.unpacked_parts):
            codes = [
                load(builder, quad, INTS, UNPACKED_BYTES * panel + VECTOR_BYTES * part)
                for panel in range(panels)
            ]
            for token in range(tokens.value):
                own_x = _at(builder, x, stride, token)
                for panel in range(panels):
                    start = count * (panels * token + panel)
                    own = slice(start, start + count)
                    current[own] = products.add_part(
                        builder, current[own], codes[panel], part, own_x
                    )
        return context.make_tuple(builder, sums, current)

    address = types.int64
    return sums(arithmetic, tokens, address, address, types.int64, sums), emit


@kernel_intrinsic
def add_block(
    typing: Any, arithmetic: Any, tokens: Any, sums: Any, header: Any, stride: Any, totals: Any
) -> Any:
    """Add scale * sums to totals (address of float32 `[tokens, 2, 16]`); `header` as above."""
    products = products_of(arithmetic.value)
    panels, count = _panels(products, tokens.value), products.block_sum_count

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, packed, header, stride, totals = values
        current = elements(builder, packed, sums.count)
        for token in range(tokens.value):
            scale = splat(builder, load(builder, _at(builder, header, stride, token), F32))
            for panel in range(panels):
                start = count * (panels * token + panel)
                exact = products.total(builder, current[start : start + count])
                place = VECTOR_BYTES * (_PANELS * token + panel)
                address = builder.add(totals, ir.Constant(I64, place))
                before = load(builder, address, FLOATS)
                product = builder.sitofp(exact, FLOATS)
                store(builder, address, multiply_add(builder, product, scale, before))
        return context.get_dummy_value()

    address = types.int64
    return types.void(arithmetic, tokens, sums, address, types.int64, address), emit
