"""Emit exact products of a tile's codes and a token's quantised inputs, in every instruction set.

A kernel's sums of products are integers without rounding, so all instruction sets, any number
of threads and any grouping of tokens give the same bits.

A token's quantised inputs are integers q within +-32512, or within +-127 (int8 activations).
They lie quad by quad (four rows), as the instruction set multiplies them (`Products`).

`tile_dot` multiplies a tile by one token, `block_dot` unpacked panels by a block of tokens.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

from llvmlite import ir
from numba.core import types

from rbe_cli.kernels.linear.avx2_products import Avx2Products
from rbe_cli.kernels.linear.neon_products import NeonDotProducts, NeonProducts
from rbe_cli.kernels.linear.pair_products import PairProducts
from rbe_cli.kernels.linear.vnni_products import SignedProducts, VnniProducts
from rbe_cli.runtime.arithmetic import Arithmetic, choice_type
from rbe_cli.runtime.instruction_sets import InstructionSet
from rbe_cli.runtime.simd import (
    F32,
    I8,
    I32,
    I64,
    INTS,
    by_registers,
    call,
    constant,
    ints,
    kernel_intrinsic,
    load,
)
from rbe_cli.weights.panel_layout import BENT_4, LAYOUTS, PLANES, VECTOR_BYTES, PanelLayout

BYTES = ir.VectorType(I8, 64)
_LOOK_UPS = {  # lanes of a register, and what looks its bytes up in a table of 16
    InstructionSet.avx512: (16, "llvm.x86.avx512.pshuf.b.512"),
    InstructionSet.avxvnni: (8, "llvm.x86.avx2.pshuf.b"),
    InstructionSet.avx2: (8, "llvm.x86.avx2.pshuf.b"),
    InstructionSet.neon_dot: (4, "llvm.aarch64.neon.tbl1.v16i8"),
    InstructionSet.neon: (4, "llvm.aarch64.neon.tbl1.v16i8"),
}
UNPACKED_OFFSET = 128  # of bytes that `block_dot.unpack_tile` writes


def shifted(builder: ir.IRBuilder, vector: ir.Value, places: int) -> ir.Value:
    """Return a vector's bits moved to the right, or to the left if `places` is negative."""
    if places == 0:
        return vector
    shift = builder.lshr if places > 0 else builder.shl
    return shift(vector, constant(abs(places)))


def bytes_of_quad(
    builder: ir.IRBuilder,
    instructions: InstructionSet,
    layout: PanelLayout,
    tile: ir.Value,
    quad: int,
) -> ir.Value:
    """Load a quad's codes as the bytes that kernels multiply by, 64 in 16 lanes."""
    result, plane_bit = None, 0  # a plane's first vector has its first bit's number
    for own in PLANES[layout.bits]:
        per_vector = 8 // own
        vector = load(builder, tile, INTS, VECTOR_BYTES * (plane_bit + quad // per_vector))
        if own < 8:
            vector = shifted(builder, vector, own * (quad % per_vector) - plane_bit)
            mask = ((2**own - 1) << plane_bit) * 0x01010101
            vector = builder.and_(vector, constant(mask))
        result = vector if result is None else builder.or_(result, vector)
        plane_bit += own
    return _bent(builder, instructions, result) if layout is BENT_4 else result


def _bent(builder: ir.IRBuilder, instructions: InstructionSet, codes: ir.Value) -> ir.Value:
    """Return 8 * level + 128 of bent codes."""
    table = [int(8 * level) + BENT_4.offset for level in BENT_4.levels]
    if instructions is not InstructionSet.portable:
        lanes, name = _LOOK_UPS[instructions]
        kind = ir.VectorType(I8, 4 * lanes)
        values = ir.Constant(kind, [byte - 256 * (byte > 127) for byte in lanes // 4 * table])

        def look_up(codes: ir.Value) -> ir.Value:
            found = call(builder, name, kind, values, builder.bitcast(codes, kind))
            return builder.bitcast(found, ir.VectorType(I32, lanes))

        return by_registers(builder, lanes, look_up, codes)
    # Evenly spaced but for the two at either end.
    step = table[3] - table[2]
    even = builder.mul(codes, constant(step))  # no byte overflows
    result = builder.add(even, constant((table[2] - 2 * step) * 0x01010101))
    result, codes = builder.bitcast(result, BYTES), builder.bitcast(codes, BYTES)
    for code in (0, 1, 14, 15):
        is_code = builder.icmp_unsigned("==", codes, constant(code, BYTES))
        result = builder.select(is_code, constant(table[code], BYTES), result)
    return builder.bitcast(result, INTS)


class Products(Protocol):
    """Say how products are emitted: for VNNI, or for AVX2 and others.

    A tile's sums, and those of a block of tokens, are vectors of 16 lanes (ints).

    Attributes:
        sum_count: vectors of sums that `add_tile` takes and gives.
        block_sum_count: those of one token and panel of a block.
        block_sums: vectors that registers hold beside a block's other operands.
        block_tokens: tokens of the largest block.
        input_stride: bytes from a quad's inputs to those of the next, of the same 64 rows.
        unpacked_bytes: of a quad, as `unpack` writes it.
        unpacked_parts: vectors of a quad, which `add_part` multiplies one by one.
    """

    sum_count: int
    block_sum_count: int
    block_sums: int
    block_tokens: int
    input_stride: int
    unpacked_bytes: int
    unpacked_parts: int

    def inputs_at(self, builder: ir.IRBuilder, words: ir.Value, row: ir.Value) -> ir.Value:
        """Return where the inputs of rows from `row` on lie, a multiple of 4; `words`: of 0."""

    def store_inputs(self, builder: ir.IRBuilder, address: ir.Value, q: ir.Value) -> None:
        """Write 16 quantised inputs (ints) to the address that `inputs_at` gives."""

    def add_tile(
        self,
        builder: ir.IRBuilder,
        sums: list[ir.Value],
        quad_bytes: Callable[[int], ir.Value],
        bits: int,
        x: ir.Value,
    ) -> list[ir.Value]:
        """Do as `tile_products`."""

    def total(self, builder: ir.IRBuilder, sums: list[ir.Value]) -> ir.Value:
        """Return the sum of products (ints) from the sums of a tile or of a block."""

    def unpack(self, builder: ir.IRBuilder, codes: ir.Value, offset: int, out: ir.Value) -> None:
        """Write a quad's bytes, which stand for byte - offset, as `add_part` takes them."""

    def start(self, builder: ir.IRBuilder, group_sum: ir.Value) -> list[ir.Value]:
        """Return a block's first sums, from the sum of a token's quantised inputs (i32)."""

    def add_part(
        self, builder: ir.IRBuilder, sums: list[ir.Value], codes: ir.Value, part: int, x: ir.Value
    ) -> list[ir.Value]:
        """Return sums plus the products of a part of an unpacked quad and of its inputs at `x`."""


@cache
def products_of(arithmetic: Arithmetic) -> Products:
    """Return how an arithmetic's products are emitted."""
    instructions = arithmetic.instructions
    if arithmetic.has_matrices:
        return SignedProducts(16, arithmetic.int8)
    if instructions is InstructionSet.avx512:
        return VnniProducts(16, arithmetic.int8)
    if instructions is InstructionSet.avxvnni:
        return VnniProducts(8, arithmetic.int8)
    if instructions is InstructionSet.neon_dot:
        return NeonDotProducts(arithmetic.int8)
    if instructions is InstructionSet.neon:
        return NeonProducts()
    return Avx2Products() if instructions is InstructionSet.avx2 else PairProducts()


def sum_count(arithmetic: Arithmetic) -> int:
    """Return how many vectors of sums `tile_products` takes and gives."""
    return products_of(arithmetic).sum_count


def tile_products(
    builder: ir.IRBuilder,
    arithmetic: Arithmetic,
    sums: list[ir.Value],
    quad_bytes: Callable[[int], ir.Value],
    bits: int,
    x: ir.Value,
) -> list[ir.Value]:
    """Return sums plus the products of a tile's bytes and a token's quantised inputs.

    Args:
        builder: where instructions go.
        arithmetic: how they are computed.
        sums: `sum_count` vectors.
        quad_bytes: emits the bytes of a quad, 0 to 7, once each and in turn; they are unsigned.
        bits: all bytes are below 2 ** bits.
        x: address of the tile's quantised inputs.
    """
    return products_of(arithmetic).add_tile(builder, sums, quad_bytes, bits, x)


def tile_total(builder: ir.IRBuilder, arithmetic: Arithmetic, sums: list[ir.Value]) -> ir.Value:
    """Return the sums of products in 16 lanes (ints), of what `tile_products` has collected."""
    return products_of(arithmetic).total(builder, sums)


def for_layout(
    builder: ir.IRBuilder, number: ir.Value, emit: Callable[[PanelLayout], list[ir.Value]]
) -> list[ir.Value]:
    """Return what `emit` gives for the layout of a number that is known when the code runs."""
    return for_choice(builder, number, LAYOUTS, emit)


def for_choice(
    builder: ir.IRBuilder,
    number: ir.Value,
    choices: Sequence[Any],
    emit: Callable[[Any], list[ir.Value]],
) -> list[ir.Value]:
    """Return what `emit` gives for the choice whose place is known when the code runs."""
    end = builder.append_basic_block("choice.end")
    unknown = builder.append_basic_block("choice.unknown")
    branch = builder.switch(number, unknown)
    builder.position_at_end(unknown)
    builder.unreachable()
    found = []
    for place, choice in enumerate(choices):
        case = builder.append_basic_block(f"choice.{place}")
        branch.add_case(ir.Constant(I64, place), case)
        builder.position_at_end(case)
        results = emit(choice)
        found.append((builder.block, results))
        builder.branch(end)
    builder.position_at_end(end)
    merged = []
    for i, first in enumerate(found[0][1]):
        phi = builder.phi(first.type)
        for block, results in found:
            phi.add_incoming(results[i], block)
        merged.append(phi)
    return merged


def tuple_of(kind: types.Type, count: int) -> Any:
    return types.UniTuple(kind, count)


def elements(builder: ir.IRBuilder, values: ir.Value, count: int) -> list[ir.Value]:
    return [builder.extract_value(values, i) for i in range(count)]


@kernel_intrinsic
def input_limit(typing: Any, arithmetic: Any) -> Any:
    """Return the largest quantised input (float32)."""
    value = ir.Constant(F32, 127.0 if arithmetic.value.int8 else 32512.0)
    return types.float32(arithmetic), lambda *_: value


@kernel_intrinsic
def int8_arithmetic(typing: Any, arithmetic: Any) -> Any:
    """Return the arithmetic of int8 activations."""
    own = arithmetic.value
    found = choice_type(Arithmetic(own.instructions, True, own.has_matrices))
    return found(arithmetic), lambda context, *_: context.get_dummy_value()


@kernel_intrinsic
def quads_at(typing: Any, arithmetic: Any, words: Any, row: Any) -> Any:
    """Return where a quad's quantised inputs lie, by its first row; `words` is the first one."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        return products_of(arithmetic.value).inputs_at(builder, *values[1:])

    return types.int64(arithmetic, types.int64, types.int64), emit


@kernel_intrinsic
def store_quads(typing: Any, arithmetic: Any, address: Any, quantised: Any) -> Any:
    """Write 16 quantised inputs (ints), four quads, to the address that `quads_at` gives."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        products_of(arithmetic.value).store_inputs(builder, *values[1:])
        return context.get_dummy_value()

    return types.void(arithmetic, types.int64, ints), emit
