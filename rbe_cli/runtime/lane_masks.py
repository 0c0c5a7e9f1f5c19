"""Compare, select, gather and expand the lanes of vectors inside compiled kernels (simd.py).

A mask is an int64 number with a bit for each lane, the first lane's lowest. LLVM keeps it in a mask
register where the CPU has such, and a comparison that is only selected by is never a number.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from rbe_cli.runtime.instruction_sets import InstructionSet
from rbe_cli.runtime.simd import (
    I1,
    I8,
    I16,
    I32,
    I64,
    INTS,
    LANES,
    call,
    define,
    ints,
    kernel_intrinsic,
    load,
    store,
)

_GATHERING = (InstructionSet.avx512, InstructionSet.avxvnni, InstructionSet.avx2)
_HALF = LANES // 2
_BITS, _HALF_INTS = ir.VectorType(I1, LANES), ir.VectorType(I32, _HALF)
_SHORTS, _ALL_SHORTS = ir.VectorType(I16, LANES), ir.VectorType(I16, 2 * LANES)


def _number(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Return lanes of one bit as a mask."""
    return builder.zext(builder.bitcast(bits, ir.IntType(bits.type.count)), I64)


def _bits(builder: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    """Return a mask as lanes of one bit."""
    return builder.bitcast(builder.trunc(mask, I16), _BITS)


def _compare(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, sign: str) -> ir.Value:
    return _number(builder, builder.icmp_unsigned(sign, a, b))


def _below_shorts(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    a, b = builder.bitcast(a, _ALL_SHORTS), builder.bitcast(b, _ALL_SHORTS)
    return _number(builder, builder.icmp_unsigned("<", a, b))


def _select(builder: ir.IRBuilder, mask: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(_bits(builder, mask), a, b)


def _larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _smaller(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _every_second(first: int) -> Any:
    order = ir.Constant(INTS, list(range(first, 2 * LANES, 2)))
    return lambda builder, a, b: builder.shuffle_vector(a, b, order)


def _store_shorts(builder: ir.IRBuilder, address: ir.Value, vector: ir.Value) -> None:
    store(builder, address, builder.trunc(vector, _SHORTS))


_address = types.int64

below = define(types.int64, (ints, ints), lambda b, x, y: _compare(b, x, y, "<"))  # unsigned
equal = define(types.int64, (ints, ints), lambda b, x, y: _compare(b, x, y, "=="))
below_shorts = define(types.int64, (ints, ints), _below_shorts)  # of 32 lanes of 16 bits
select = define(ints, (types.int64, ints, ints), _select)
larger_int = define(ints, (ints, ints), _larger)
smaller_int = define(ints, (ints, ints), _smaller)
shift_right = define(ints, (ints, ints), lambda b, x, y: b.lshr(x, y))  # fills with zeros
even_lanes, odd_lanes = (define(ints, (ints, ints), _every_second(i)) for i in (0, 1))
count_ones = define(
    types.int64, (types.int64,), lambda b, mask: call(b, "llvm.ctpop.i64", I64, mask)
)
load_shorts = define(ints, (_address,), lambda b, a: b.sext(load(b, a, _SHORTS), INTS))
store_ints = define(types.void, (_address, ints), store)
store_shorts = define(types.void, (_address, ints), _store_shorts)


@kernel_intrinsic
def has_gathers(typing: Any, arithmetic: Any) -> Any:
    """Return whether the instruction set can gather, a constant for the compiler."""
    value = arithmetic.value.instructions in _GATHERING
    return types.boolean(arithmetic), lambda *_: ir.Constant(I1, value)


def _halves(builder: ir.IRBuilder, vector: ir.Value) -> list[ir.Value]:
    parts = (list(range(first, first + _HALF)) for first in (0, _HALF))
    return [builder.shuffle_vector(vector, vector, ir.Constant(_HALF_INTS, part)) for part in parts]


def _whole(builder: ir.IRBuilder, halves: list[ir.Value]) -> ir.Value:
    return builder.shuffle_vector(*halves, ir.Constant(INTS, list(range(LANES))))


def lookup(
    builder: ir.IRBuilder, instructions: InstructionSet, address: ir.Value, indices: ir.Value
) -> ir.Value:
    """Emit the elements of an array of int32 at an address, one by one where nothing gathers."""
    if instructions in _GATHERING:
        return _gathered(builder, instructions, address, indices)
    found = ir.Constant(INTS, ir.Undefined)
    for lane in range(LANES):
        index = builder.sext(builder.extract_element(indices, ir.Constant(I32, lane)), I64)
        place = builder.add(address, builder.mul(index, ir.Constant(I64, 4)))
        found = builder.insert_element(found, load(builder, place, I32), ir.Constant(I32, lane))
    return found


def _gathered(
    builder: ir.IRBuilder, instructions: InstructionSet, address: ir.Value, indices: ir.Value
) -> ir.Value:
    base = builder.inttoptr(address, I8.as_pointer())
    if instructions is InstructionSet.avx512:
        return call(
            builder, "llvm.x86.avx512.mask.gather.dpi.512", INTS, ir.Constant(INTS, None), base,
            indices, ir.Constant(_BITS, [1] * LANES), ir.Constant(I32, 4),
        )  # fmt: skip
    zeros, ones = (ir.Constant(_HALF_INTS, [value] * _HALF) for value in (0, -1))
    found = [
        call(
            builder, "llvm.x86.avx2.gather.d.d.256", _HALF_INTS, zeros, base, half, ones,
            ir.Constant(I8, 4),
        )
        for half in _halves(builder, indices)
    ]  # fmt: skip
    return _whole(builder, found)


@kernel_intrinsic
def gather(typing: Any, arithmetic: Any, address: Any, indices: Any) -> Any:
    """Return elements of an array of int32 at an address, as `has_gathers` allows."""
    instructions = arithmetic.value.instructions

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        return _gathered(builder, instructions, values[1], values[2])

    if instructions not in _GATHERING:
        return ints(arithmetic, types.int64, ints), lambda *_: ir.Constant(INTS, ir.Undefined)
    return ints(arithmetic, types.int64, ints), emit


def _expanded_half(
    builder: ir.IRBuilder, address: ir.Value, mask: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return 8 lanes for the lowest 8 bits of a mask, and the address of the next word."""
    table = _expansion_table(builder)
    own = builder.and_(mask, ir.Constant(I64, 255))
    place = builder.add(builder.ptrtoint(table, I64), builder.mul(own, ir.Constant(I64, _HALF)))
    order = builder.zext(load(builder, place, ir.VectorType(I8, _HALF)), _HALF_INTS)
    words = builder.zext(load(builder, address, ir.VectorType(I16, _HALF)), _HALF_INTS)
    lanes = call(builder, "llvm.x86.avx2.permd", _HALF_INTS, words, order)
    count = call(builder, "llvm.ctpop.i64", I64, own)
    return lanes, builder.add(address, builder.shl(count, ir.Constant(I64, 1)))


def _expansion_table(builder: ir.IRBuilder) -> ir.Value:
    """Return, for each mask of 8 lanes, how many of its bits are below each lane."""
    name = "rbe_expansion"
    if name in builder.module.globals:
        return builder.module.globals[name]
    counts = [
        (mask & ((1 << lane) - 1)).bit_count() for mask in range(256) for lane in range(_HALF)
    ]
    kind = ir.ArrayType(I8, len(counts))
    table = ir.GlobalVariable(builder.module, kind, name)
    table.initializer = ir.Constant(kind, counts)
    table.linkage, table.global_constant = "internal", True
    return table


@kernel_intrinsic
def expand_words(typing: Any, arithmetic: Any, address: Any, mask: Any) -> Any:
    """Return unsigned 16-bit words from an address on, the next for each lane of a mask.

    Other lanes hold anything. 16 words are read, whatever the mask; as `has_gathers` allows.
    """
    instructions = arithmetic.value.instructions

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, address, mask = values
        if instructions is InstructionSet.avx512:
            words = builder.zext(load(builder, address, _SHORTS), INTS)
            return call(
                builder, "llvm.x86.avx512.mask.expand.v16i32", INTS, words,
                ir.Constant(INTS, None), _bits(builder, mask),
            )  # fmt: skip
        low, address = _expanded_half(builder, address, mask)
        high, _ = _expanded_half(builder, address, builder.lshr(mask, ir.Constant(I64, _HALF)))
        return _whole(builder, [low, high])

    if instructions not in _GATHERING:
        emit = lambda *_: ir.Constant(INTS, ir.Undefined)  # noqa: E731
    return ints(arithmetic, types.int64, types.int64), emit
