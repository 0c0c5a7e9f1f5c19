"""Emit exact products of a tile's codes and a token's quantised inputs, in every instruction set.

A kernel's sums of products are integers without rounding, so all instruction sets, any number
of threads and any grouping of tokens give the same bits.

A token's quantised inputs are integers q within +-32512. They lie quad by quad (four rows), as
the instruction set multiplies them:

    avx512          q = 256 * high + low, both signed: for every 64 rows, 64 bytes `high`, then
                    64 bytes `low`
    avx2, portable  four 16-bit integers, rows 0, 2, 1 and 3

or, for `avx512` alone, as one signed byte each: 4 bytes a quad (int8 activations, +-127). Sums of
products are collected in vectors of 16 lanes, `sum_count` of them for a token's tiles.

`tile_dot` multiplies a tile by one token, `block_dot` unpacked panels by a block of tokens.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types

from rbe_cli.runtime.arithmetic import Arithmetic, choice_type
from rbe_cli.runtime.instruction_sets import InstructionSet
from rbe_cli.runtime.simd import (
    I8,
    I16,
    I32,
    I64,
    INTS,
    call,
    ints,
    kernel_intrinsic,
    load,
    splat,
    store,
)
from rbe_cli.weights.panel_layout import BENT_4, EVEN_2, LAYOUTS, PLANES, VECTOR_BYTES, PanelLayout

BYTES = ir.VectorType(I8, 64)
QUADS = 8  # of a tile
HALF_BYTES = 64  # of high bytes, after which low ones follow
UNPACKED_OFFSET = 128
_CHAINS = 4  # sums of one token, side by side, as an addition takes four cycles


def constant(value: int, kind: ir.VectorType = INTS) -> ir.Constant:
    bits = kind.element.width
    signed = (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
    return ir.Constant(kind, [signed] * kind.count)


def _shifted(builder: ir.IRBuilder, vector: ir.Value, places: int) -> ir.Value:
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
    doubled = 1 if layout is EVEN_2 else 0  # its bytes are 2 * code
    result, plane_bit = None, 0  # a plane's first vector has its first bit's number
    for own in PLANES[layout.bits]:
        per_vector = 8 // own
        vector = load(builder, tile, INTS, VECTOR_BYTES * (plane_bit + quad // per_vector))
        if own < 8:
            target = plane_bit + doubled
            vector = _shifted(builder, vector, own * (quad % per_vector) - target)
            mask = ((2**own - 1) << target) * 0x01010101
            vector = builder.and_(vector, constant(mask))
        result = vector if result is None else builder.or_(result, vector)
        plane_bit += own
    return _bent(builder, instructions, result) if layout is BENT_4 else result


def _bent(builder: ir.IRBuilder, instructions: InstructionSet, codes: ir.Value) -> ir.Value:
    """Return 8 * level + 128 of bent codes."""
    table = [int(8 * level) + BENT_4.offset for level in BENT_4.levels]
    if instructions is InstructionSet.avx512:
        looked_up = call(
            builder, "llvm.x86.avx512.pshuf.b.512", BYTES,
            ir.Constant(BYTES, [byte - 256 * (byte > 127) for byte in 4 * table]),
            builder.bitcast(codes, BYTES),
        )  # fmt: skip
        return builder.bitcast(looked_up, INTS)
    # Evenly spaced but for the two at either end.
    step = table[3] - table[2]
    even = builder.mul(codes, constant(step))  # no byte overflows
    result = builder.add(even, constant((table[2] - 2 * step) * 0x01010101))
    result, codes = builder.bitcast(result, BYTES), builder.bitcast(codes, BYTES)
    for code in (0, 1, 14, 15):
        is_code = builder.icmp_unsigned("==", codes, constant(code, BYTES))
        result = builder.select(is_code, constant(table[code], BYTES), result)
    return builder.bitcast(result, INTS)


def add_products(
    builder: ir.IRBuilder,
    arithmetic: Arithmetic,
    sums: list[ir.Value],
    codes: ir.Value,
    words: list[ir.Value],
) -> list[ir.Value]:
    """Return both halves' sums plus a quad's bytes times the quantised inputs in `words` (i32)."""
    instructions = arithmetic.instructions
    if instructions is InstructionSet.avx512:
        return [
            call(
                builder, "llvm.x86.avx512.vpdpbusd.512", INTS, own,
                builder.bitcast(codes, BYTES), builder.bitcast(splat(builder, word), BYTES),
            )
            for own, word in zip(sums, words, strict=True)
        ]  # fmt: skip
    pairs = [
        builder.and_(_shifted(builder, codes, shift), constant(0x00FF00FF)) for shift in (0, 8)
    ]
    multiply = _pair_products_avx2 if instructions is InstructionSet.avx2 else _pair_products
    return [
        builder.add(own, multiply(builder, pair, word))
        for own, pair, word in zip(sums, pairs, words, strict=True)
    ]


def _pair_products_avx2(builder: ir.IRBuilder, pairs: ir.Value, word: ir.Value) -> ir.Value:
    """Return the sums of two products of 16-bit integers, in each of 16 lanes."""
    half, words = ir.VectorType(I32, 8), ir.VectorType(I16, 16)
    factor = builder.bitcast(splat(builder, word, 8), words)
    products = []
    for first in (0, 8):
        lanes = ir.Constant(half, list(range(first, first + 8)))
        own = builder.bitcast(builder.shuffle_vector(pairs, pairs, lanes), words)
        products.append(call(builder, "llvm.x86.avx2.pmadd.wd", half, own, factor))
    return builder.shuffle_vector(*products, ir.Constant(INTS, list(range(16))))


def _pair_products(builder: ir.IRBuilder, pairs: ir.Value, word: ir.Value) -> ir.Value:
    sixteen = ir.Constant(I32, 16)
    first = builder.ashr(builder.shl(word, sixteen), sixteen)
    second = builder.ashr(word, sixteen)
    low = builder.mul(builder.and_(pairs, constant(0xFFFF)), splat(builder, first))
    high = builder.mul(builder.lshr(pairs, constant(16)), splat(builder, second))
    return builder.add(low, high)


def sum_count(arithmetic: Arithmetic) -> int:
    """Return how many vectors of sums `tile_products` takes and gives."""
    return _CHAINS * arithmetic.halves


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
    halves, current = arithmetic.halves, list(sums)
    for quad in range(QUADS):
        chain = slice(halves * (quad % _CHAINS), halves * (quad % _CHAINS + 1))
        words = words_of(builder, arithmetic, x, quad)
        current[chain] = add_products(builder, arithmetic, current[chain], quad_bytes(quad), words)
    return current


def tile_total(builder: ir.IRBuilder, arithmetic: Arithmetic, sums: list[ir.Value]) -> ir.Value:
    """Return the sums of products in 16 lanes (ints), of what `tile_products` has collected."""
    halves = arithmetic.halves
    merged = sums[:halves]
    for i, value in enumerate(sums[halves:]):
        merged[i % halves] = builder.add(merged[i % halves], value)
    return total_of(builder, arithmetic, merged)


def words_of(
    builder: ir.IRBuilder, arithmetic: Arithmetic, x: ir.Value, quad: int = 0
) -> list[ir.Value]:
    """Load a tile's quad of quantised inputs, four bytes for each half, from `quads_at`."""
    halves = arithmetic.halves
    if arithmetic.instructions is InstructionSet.avx512:
        return [load(builder, x, I32, 4 * quad + HALF_BYTES * half) for half in range(halves)]
    return [load(builder, x, I32, 4 * (halves * quad + half)) for half in range(halves)]


def total_of(builder: ir.IRBuilder, arithmetic: Arithmetic, sums: list[ir.Value]) -> ir.Value:
    """Return the sum of products from the sums of the halves."""
    if arithmetic.halves == 1:
        return sums[0]
    first, second = sums
    if arithmetic.instructions is InstructionSet.avx512:
        first = builder.shl(first, constant(8))
    return builder.add(first, second)


def for_layout(
    builder: ir.IRBuilder, number: ir.Value, emit: Callable[[PanelLayout], list[ir.Value]]
) -> list[ir.Value]:
    """Return what `emit` gives for the layout of a number that is known when the code runs."""
    end = builder.append_basic_block("layout.end")
    unknown = builder.append_basic_block("layout.unknown")
    branch = builder.switch(number, unknown)
    builder.position_at_end(unknown)
    builder.unreachable()
    found = []
    for place, layout in enumerate(LAYOUTS):
        case = builder.append_basic_block(f"layout.{layout.name}")
        branch.add_case(ir.Constant(I64, place), case)
        builder.position_at_end(case)
        results = emit(layout)
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
def halves_of(typing: Any, arithmetic: Any) -> Any:
    """Return how many halves sums of products have: 2, or 1 for int8 activations."""
    value = ir.Constant(I64, arithmetic.value.halves)
    return types.int64(arithmetic), lambda *_: value


@kernel_intrinsic
def int8_arithmetic(typing: Any, arithmetic: Any) -> Any:
    """Return the arithmetic of int8 activations, where the instruction set has one."""
    own = arithmetic.value
    if own.instructions is not InstructionSet.avx512:
        return arithmetic(arithmetic), lambda context, builder, _, values: values[0]
    found = choice_type(Arithmetic(own.instructions, int8=True))
    return found(arithmetic), lambda context, *_: context.get_dummy_value()


@kernel_intrinsic
def quads_at(typing: Any, arithmetic: Any, words: Any, row: Any) -> Any:
    """Return where a quad's quantised inputs lie, by its first row; `words` is the first one."""
    own = arithmetic.value

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, words, row = values
        place = builder.add(words, row)
        if own.halves == 1:
            return place
        if own.instructions is InstructionSet.avx512:
            row = builder.and_(row, ir.Constant(I64, -HALF_BYTES))
        return builder.add(place, row)

    return types.int64(arithmetic, types.int64, types.int64), emit


@kernel_intrinsic
def store_quads(typing: Any, arithmetic: Any, address: Any, quantised: Any) -> Any:
    """Write 16 quantised inputs (ints), four quads, to the address that `quads_at` gives."""
    own = arithmetic.value

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, address, q = values
        if own.halves == 1:
            store(builder, address, builder.trunc(q, ir.VectorType(I8, 16)))
        elif own.instructions is InstructionSet.avx512:
            high = builder.ashr(builder.add(q, constant(128)), constant(8))
            low = builder.sub(q, builder.shl(high, constant(8)))
            for half, part in enumerate((high, low)):
                place = builder.add(address, ir.Constant(I64, HALF_BYTES * half))
                store(builder, place, builder.trunc(part, ir.VectorType(I8, 16)))
        else:
            words = builder.trunc(q, ir.VectorType(I16, 16))
            order = [4 * quad + row for quad in range(4) for row in (0, 2, 1, 3)]
            shuffled = builder.shuffle_vector(words, words, ir.Constant(INTS, order))
            store(builder, address, shuffled)
        return context.get_dummy_value()

    return types.void(arithmetic, types.int64, ints), emit
