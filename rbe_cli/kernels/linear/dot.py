"""Exact products of codes and 16-bit activations, in every instruction set.

A kernel's sums of products are integers without rounding, so all instruction sets, any number
of threads and any grouping of tokens give the same bits.

Activations of a token are integers q within +-32512, and lie quad by quad (four rows), 8 bytes a
quad, as the instruction set multiplies them:

    avx512          q = 256 * high + low: four bytes `high`, four bytes `low`, both signed
    avx2, portable  four 16-bit integers, rows 0, 2, 1 and 3

or, for `avx512` alone, as one signed byte each: 4 bytes a quad ("coarse", +-127). Sums of products
are collected in two vectors ("halves") of 16 lanes, one for each four bytes.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from rbe_cli.runtime.arithmetic import Arithmetic, choice_type
from rbe_cli.runtime.floating import multiply_add
from rbe_cli.runtime.instruction_sets import InstructionSet
from rbe_cli.runtime.simd import (
    F32,
    FLOATS,
    I8,
    I16,
    I32,
    I64,
    INTS,
    call,
    ints,
    kernel_intrinsic,
    load,
    prefetch_line,
    splat,
    store,
)
from rbe_cli.weights.panel_layout import BENT_4, EVEN_2, LAYOUTS, PLANES, VECTOR_BYTES, PanelLayout

_BYTES = ir.VectorType(I8, 64)
_QUADS = 8  # of a tile
UNPACKED_OFFSET = 128
_AHEAD_BYTES = 8192  # of what is prefetched: 1 / 10 microsecond at 80 GB/s


def _constant(value: int, kind: ir.VectorType = INTS) -> ir.Constant:
    bits = kind.element.width
    signed = (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
    return ir.Constant(kind, [signed] * kind.count)


def _shifted(builder: ir.IRBuilder, vector: ir.Value, places: int) -> ir.Value:
    """Bits moved to the right, or to the left if `places` is negative."""
    if places == 0:
        return vector
    shift = builder.lshr if places > 0 else builder.shl
    return shift(vector, _constant(abs(places)))


def _bytes_of_quad(
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
            vector = builder.and_(vector, _constant(mask))
        result = vector if result is None else builder.or_(result, vector)
        plane_bit += own
    return _bent(builder, instructions, result) if layout is BENT_4 else result


def _bent(builder: ir.IRBuilder, instructions: InstructionSet, codes: ir.Value) -> ir.Value:
    """8 * level + 128 of bent codes."""
    table = [int(8 * level) + BENT_4.offset for level in BENT_4.levels]
    if instructions is InstructionSet.avx512:
        looked_up = call(
            builder, "llvm.x86.avx512.pshuf.b.512", _BYTES,
            ir.Constant(_BYTES, [byte - 256 * (byte > 127) for byte in 4 * table]),
            builder.bitcast(codes, _BYTES),
        )  # fmt: skip
        return builder.bitcast(looked_up, INTS)
    # Evenly spaced but for the two at either end.
    step = table[3] - table[2]
    even = builder.mul(codes, _constant(step))  # no byte overflows
    result = builder.add(even, _constant((table[2] - 2 * step) * 0x01010101))
    result, codes = builder.bitcast(result, _BYTES), builder.bitcast(codes, _BYTES)
    for code in (0, 1, 14, 15):
        is_code = builder.icmp_unsigned("==", codes, _constant(code, _BYTES))
        result = builder.select(is_code, _constant(table[code], _BYTES), result)
    return builder.bitcast(result, INTS)


def _add_products(
    builder: ir.IRBuilder,
    arithmetic: Arithmetic,
    sums: list[ir.Value],
    codes: ir.Value,
    words: list[ir.Value],
) -> list[ir.Value]:
    """Both halves' sums, plus a quad's bytes times the activations in `words` (i32)."""
    instructions = arithmetic.instructions
    if instructions is InstructionSet.avx512:
        return [
            call(
                builder, "llvm.x86.avx512.vpdpbusd.512", INTS, own,
                builder.bitcast(codes, _BYTES), builder.bitcast(splat(builder, word), _BYTES),
            )
            for own, word in zip(sums, words, strict=True)
        ]  # fmt: skip
    pairs = [
        builder.and_(_shifted(builder, codes, shift), _constant(0x00FF00FF)) for shift in (0, 8)
    ]
    multiply = _pair_products_avx2 if instructions is InstructionSet.avx2 else _pair_products
    return [
        builder.add(own, multiply(builder, pair, word))
        for own, pair, word in zip(sums, pairs, words, strict=True)
    ]


def _pair_products_avx2(builder: ir.IRBuilder, pairs: ir.Value, word: ir.Value) -> ir.Value:
    """Sums of two products of 16-bit integers, in each of 16 lanes."""
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
    low = builder.mul(builder.and_(pairs, _constant(0xFFFF)), splat(builder, first))
    high = builder.mul(builder.lshr(pairs, _constant(16)), splat(builder, second))
    return builder.add(low, high)


def _words(
    builder: ir.IRBuilder, arithmetic: Arithmetic, x: ir.Value, quad: int = 0
) -> list[ir.Value]:
    """A quad's activations, four bytes for each half."""
    halves = arithmetic.halves
    return [load(builder, x, I32, 4 * (halves * quad + half)) for half in range(halves)]


def _total(builder: ir.IRBuilder, arithmetic: Arithmetic, sums: list[ir.Value]) -> ir.Value:
    """The sum of products, out of that of the halves."""
    if arithmetic.halves == 1:
        return sums[0]
    first, second = sums
    if arithmetic.instructions is InstructionSet.avx512:
        first = builder.shl(first, _constant(8))
    return builder.add(first, second)


def _constant_of(read: Callable[[Any], int]) -> Any:
    """A function for kernels: a number that a choice fixes at compile time."""

    def number(typing: Any, choice: Any) -> Any:
        value = ir.Constant(I64, read(choice.value))
        return types.int64(choice), lambda *_: value

    return kernel_intrinsic(number)


def _table_of(read: Callable[[PanelLayout], int], name: str) -> Any:
    """A function for kernels: a number of the layout whose place is known when the code runs."""

    def number(typing: Any, place: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
            kind = ir.ArrayType(I64, len(LAYOUTS))
            table = ir.Constant(kind, [read(layout) for layout in LAYOUTS])
            stored = cgutils.global_constant(builder.module, f"layouts.{name}", table)
            zero = ir.Constant(I64, 0)
            return builder.load(builder.gep(stored, [zero, values[0]]))

        return types.int64(types.int64), emit

    return kernel_intrinsic(number)


layout_offset = _table_of(lambda layout: layout.offset, "offset")
layout_bytes = _table_of(lambda layout: layout.bits * VECTOR_BYTES, "bytes")  # of a tile
halves_of = _constant_of(lambda arithmetic: arithmetic.halves)


@kernel_intrinsic
def coarse(typing: Any, arithmetic: Any) -> Any:
    """The arithmetic of 8-bit activations, where the instruction set has one."""
    own = arithmetic.value
    if own.instructions is not InstructionSet.avx512:
        return arithmetic(arithmetic), lambda context, builder, _, values: values[0]
    found = choice_type(Arithmetic(own.instructions, coarse=True))
    return found(arithmetic), lambda context, *_: context.get_dummy_value()


_CHAINS = 4  # sums of one token, side by side, as an addition takes four cycles


def _tuple_of(kind: types.Type, count: int) -> Any:
    return types.UniTuple(kind, count)


def _elements(builder: ir.IRBuilder, values: ir.Value, count: int) -> list[ir.Value]:
    return [builder.extract_value(values, i) for i in range(count)]


@kernel_intrinsic
def token_sums(typing: Any, arithmetic: Any) -> Any:
    """Sums for `add_tile`, still zero."""
    result = _tuple_of(ints, _CHAINS * arithmetic.value.halves)

    def emit(context: Any, builder: ir.IRBuilder, *_: Any) -> ir.Value:
        return context.make_tuple(builder, result, [_constant(0)] * result.count)

    return result(arithmetic), emit


@kernel_intrinsic
def add_tile(typing: Any, arithmetic: Any, layout: Any, tile: Any, x: Any, sums: Any) -> Any:
    """Sums plus the products of a tile at address `tile` and one token's activations at `x`.

    `layout` is a place in `LAYOUTS`. What lies some tiles on is fetched into the cache.
    """
    own, halves = arithmetic.value, arithmetic.value.halves

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, layout, tile, x, packed = values
        before = _elements(builder, packed, sums.count)

        def add(layout: PanelLayout) -> list[ir.Value]:
            _prefetch_tile(builder, layout, tile)
            current = list(before)
            for quad in range(_QUADS):
                codes = _bytes_of_quad(builder, own.instructions, layout, tile, quad)
                chain = slice(halves * (quad % _CHAINS), halves * (quad % _CHAINS + 1))
                words = _words(builder, own, x, quad)
                current[chain] = _add_products(builder, own, current[chain], codes, words)
            return current

        return context.make_tuple(builder, sums, _for_layout(builder, layout, add))

    return sums(arithmetic, types.int64, types.int64, types.int64, sums), emit


def _for_layout(
    builder: ir.IRBuilder, number: ir.Value, emit: Callable[[PanelLayout], list[ir.Value]]
) -> list[ir.Value]:
    """What `emit` gives for the layout of a number that is known when the code runs."""
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


def _prefetch_tile(builder: ir.IRBuilder, layout: PanelLayout, tile: ir.Value) -> None:
    for vector in range(layout.bits):
        address = builder.add(tile, ir.Constant(I64, _AHEAD_BYTES + VECTOR_BYTES * vector))
        prefetch_line(builder, address)


@kernel_intrinsic
def token_total(typing: Any, arithmetic: Any, sums: Any) -> Any:
    """The sums of products in 16 lanes (ints), of what `add_tile` has collected."""
    own, halves = arithmetic.value, arithmetic.value.halves

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        current = _elements(builder, values[1], sums.count)
        merged = current[:halves]
        for i, value in enumerate(current[halves:]):
            merged[i % halves] = builder.add(merged[i % halves], value)
        return _total(builder, own, merged)

    return ints(arithmetic, sums), emit


# Blocks of tokens times two panels, whose tiles were unpacked into one vector a quad.


def _at(builder: ir.IRBuilder, address: ir.Value, stride: ir.Value, index: int) -> ir.Value:
    return builder.add(address, builder.mul(stride, ir.Constant(I64, index)))


@kernel_intrinsic
def unpack_tile(typing: Any, arithmetic: Any, layout: Any, tile: Any, out: Any) -> Any:
    """Write a tile's 8 quads as bytes of offset `UNPACKED_OFFSET`, a vector each, to `out`."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, layout, tile, out = values

        def unpack(layout: PanelLayout) -> list[ir.Value]:
            for quad in range(_QUADS):
                instructions = arithmetic.value.instructions
                codes = _bytes_of_quad(builder, instructions, layout, tile, quad)
                shift = (UNPACKED_OFFSET - layout.offset) * 0x01010101  # no byte overflows
                codes = builder.add(codes, _constant(shift))
                store(builder, builder.add(out, ir.Constant(I64, VECTOR_BYTES * quad)), codes)
            return []

        _for_layout(builder, layout, unpack)
        return context.get_dummy_value()

    return types.void(arithmetic, types.int64, types.int64, types.int64), emit


@kernel_intrinsic
def block_sums(typing: Any, arithmetic: Any, tokens: Any, header: Any, stride: Any) -> Any:
    """Sums for `add_quad`: -UNPACKED_OFFSET * (sum of a token's activations) each.

    `header` is the address of the first token's group (float32 scale, int32 sum); the next
    token's lies `stride` bytes on.
    """
    halves, count = arithmetic.value.halves, tokens.value
    result = _tuple_of(ints, count * 2 * halves)

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, header, stride = values
        sums = []
        for token in range(count):
            own = load(builder, _at(builder, header, stride, token), I32, 4)
            start = splat(builder, builder.mul(own, ir.Constant(I32, -UNPACKED_OFFSET)))
            sums += 2 * [*[_constant(0)] * (halves - 1), start]
        return context.make_tuple(builder, result, sums)

    return result(arithmetic, tokens, types.int64, types.int64), emit


@kernel_intrinsic
def add_quad(
    typing: Any, arithmetic: Any, tokens: Any, first: Any, second: Any, x: Any, stride: Any,
    sums: Any,
) -> Any:  # fmt: skip
    """Sums plus the products of a quad of two panels (their addresses) and of a block of tokens.

    `x` is the address of the first token's activations; the next token's lie `stride` bytes on.
    """
    own, halves = arithmetic.value, arithmetic.value.halves

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, first, second, x, stride, packed = values
        current = _elements(builder, packed, sums.count)
        panels = [load(builder, address, INTS) for address in (first, second)]
        for token in range(tokens.value):
            words = _words(builder, own, _at(builder, x, stride, token))
            for panel, codes in enumerate(panels):
                start = halves * (2 * token + panel)
                part = slice(start, start + halves)
                current[part] = _add_products(builder, own, current[part], codes, words)
        return context.make_tuple(builder, sums, current)

    address = types.int64
    return sums(arithmetic, tokens, address, address, address, types.int64, sums), emit


@kernel_intrinsic
def add_block(
    typing: Any, arithmetic: Any, tokens: Any, sums: Any, header: Any, stride: Any, totals: Any
) -> Any:
    """totals (address of float32 `[tokens, 2, 16]`) += scale * sums; `header` as above."""
    own, halves = arithmetic.value, arithmetic.value.halves

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, _, packed, header, stride, totals = values
        current = _elements(builder, packed, sums.count)
        for token in range(tokens.value):
            scale = splat(builder, load(builder, _at(builder, header, stride, token), F32))
            for panel in range(2):
                place = 2 * token + panel
                part = current[halves * place : halves * (place + 1)]
                product = builder.sitofp(_total(builder, own, part), FLOATS)
                address = builder.add(totals, ir.Constant(I64, VECTOR_BYTES * place))
                before = load(builder, address, FLOATS)
                after = multiply_add(builder, product, scale, before)
                store(builder, address, after)
        return context.get_dummy_value()

    address = types.int64
    return types.void(arithmetic, tokens, sums, address, types.int64, address), emit


@kernel_intrinsic
def store_quads(typing: Any, arithmetic: Any, address: Any, activations: Any) -> Any:
    """Write 16 activations (ints), four quads, as the kernels read them."""
    own = arithmetic.value

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, address, q = values
        if own.halves == 1:
            store(builder, address, builder.trunc(q, ir.VectorType(I8, 16)))
        elif own.instructions is InstructionSet.avx512:
            high = builder.ashr(builder.add(q, _constant(128)), _constant(8))
            low = builder.sub(q, builder.shl(high, _constant(8)))
            quads = ir.VectorType(I32, 4)
            high, low = (
                builder.bitcast(builder.trunc(part, ir.VectorType(I8, 16)), quads)
                for part in (high, low)
            )
            order = ir.Constant(ir.VectorType(I32, 8), [0, 4, 1, 5, 2, 6, 3, 7])
            store(builder, address, builder.shuffle_vector(high, low, order))
        else:
            words = builder.trunc(q, ir.VectorType(I16, 16))
            order = [4 * quad + row for quad in range(4) for row in (0, 2, 1, 3)]
            shuffled = builder.shuffle_vector(words, words, ir.Constant(INTS, order))
            store(builder, address, shuffled)
        return context.get_dummy_value()

    return types.void(arithmetic, types.int64, ints), emit
