"""Emit fused multiply-adds and float16 conversions that give the same bits on every CPU.

x86-64-v2 has neither. There LLVM would call a C library's functions, one lane after the other
and not always present, so they are written here in instructions that every CPU has. Values may be
scalars or vectors.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from rbe_cli.runtime.compile_target import compile_target


def _is_emulated() -> bool:
    return not compile_target().has_fused_and_half


def multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """Emit a b + c of float32 values, rounded once."""
    if _is_emulated():
        return _emulated_multiply_add(builder, a, b, c)
    kind = a.type
    name = "llvm.fma." + (f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32")
    signature = ir.FunctionType(kind, [kind] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [a, b, c])


def from_half(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Emit the float32 value of a float16."""
    kind = _like(value.type, ir.FloatType())
    return _from_half(builder, value, kind) if _is_emulated() else builder.fpext(value, kind)


def to_half(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Emit the float16 nearest to a float32 value; ties go to the even one."""
    kind = _like(value.type, ir.HalfType())
    return _to_half(builder, value, kind) if _is_emulated() else builder.fptrunc(value, kind)


def _fused_float(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c of float32 numbers, rounded once."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        return multiply_add(builder, *values)

    return types.float32(types.float32, types.float32, types.float32), emit


fused_float: Callable[..., Any] = intrinsic(_fused_float)


def _like(kind: ir.Type, element: ir.Type) -> ir.Type:
    """Return a type of as many elements as `kind`."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _constants(like: ir.Type, element: ir.Type) -> Callable[[float], ir.Constant]:
    """Return a function that makes constants with as many elements as `like`."""
    kind = _like(like, element)
    if isinstance(kind, ir.VectorType):
        return lambda value: ir.Constant(kind, [value] * kind.count)
    return lambda value: ir.Constant(kind, value)


def _emulated_multiply_add(
    builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value
) -> ir.Value:
    """Emit a b + c in float64, rounded to odd, then to float32.

    The product of two float32 is exact in float64. If the sum is not, it becomes the neighbour
    whose last bit is odd, so that rounding it again gives what one rounding gives (Boldo and
    Melquiond 2008, "Emulation of a FMA and correctly rounded sums").
    """
    wide, integer = _like(a.type, ir.DoubleType()), _like(a.type, ir.IntType(64))
    number, whole = _constants(a.type, ir.DoubleType()), _constants(a.type, ir.IntType(64))
    a, b, c = (builder.fpext(value, wide) for value in (a, b, c))
    product = builder.fmul(a, b)
    total = builder.fadd(product, c)
    # The sum's error, exactly (Knuth's two-sum); not a number where the sum is not finite.
    part = builder.fsub(total, product)
    lost = builder.fadd(builder.fsub(product, builder.fsub(total, part)), builder.fsub(c, part))
    bits = builder.bitcast(total, integer)
    is_even = builder.icmp_signed("==", builder.and_(bits, whole(1)), whole(0))
    is_inexact = builder.fcmp_ordered("!=", lost, number(0.0))
    grows = builder.icmp_signed(  # away from 0: the error has the sum's sign
        ">=", builder.xor(builder.bitcast(lost, integer), bits), whole(0)
    )
    neighbour = builder.add(bits, builder.select(grows, whole(1), whole(-1)))
    odd = builder.select(builder.and_(is_even, is_inexact), neighbour, bits)
    return builder.fptrunc(builder.bitcast(odd, wide), _like(a.type, ir.FloatType()))


def _from_half(builder: ir.IRBuilder, value: ir.Value, kind: ir.Type) -> ir.Value:
    integer = _like(kind, ir.IntType(32))
    whole, number = _constants(kind, ir.IntType(32)), _constants(kind, ir.FloatType())
    bits = builder.zext(builder.bitcast(value, _like(kind, ir.IntType(16))), integer)
    shifted = builder.shl(builder.and_(bits, whole(0x7FFF)), whole(13))
    # The exponent's bias changes by a product, which is exact for subnormal numbers, too.
    scaled = builder.fmul(builder.bitcast(shifted, kind), number(2.0**112))
    # Infinities, and what is no number, whose quiet bit a conversion sets.
    special = builder.or_(shifted, whole(0x7F800000))
    is_nan = builder.icmp_unsigned(">", shifted, whole(0x0F800000))
    special = builder.or_(special, builder.select(is_nan, whole(0x00400000), whole(0)))
    is_special = builder.icmp_unsigned(">=", shifted, whole(0x0F800000))
    magnitude = builder.select(is_special, special, builder.bitcast(scaled, integer))
    sign = builder.shl(builder.and_(bits, whole(0x8000)), whole(16))
    return builder.bitcast(builder.or_(magnitude, sign), kind)


def _to_half(builder: ir.IRBuilder, value: ir.Value, kind: ir.Type) -> ir.Value:
    """Round as F. Giesen's "float_to_half_fast3_rtne" does: by sums of integers and floats."""
    single, integer = value.type, _like(kind, ir.IntType(32))
    whole, number = _constants(kind, ir.IntType(32)), _constants(kind, ir.FloatType())
    all_bits = builder.bitcast(value, integer)
    bits = builder.and_(all_bits, whole(0x7FFFFFFF))
    # Below 2**-14: a sum with 1/2, whose last bit is that of a subnormal float16.
    small = builder.fadd(builder.bitcast(bits, single), number(0.5))
    small = builder.sub(builder.bitcast(small, integer), whole(0x3F000000))
    # Between: the exponent's bias changes, and the bits that are cut round to the nearest even.
    last = builder.and_(builder.lshr(bits, whole(13)), whole(1))
    usual = builder.add(builder.add(bits, whole(0xFFF - (112 << 23))), last)
    usual = builder.lshr(usual, whole(13))
    quiet = builder.and_(builder.lshr(bits, whole(13)), whole(0x3FF))
    not_a_number = builder.or_(quiet, whole(0x7E00))
    is_nan = builder.icmp_unsigned(">", bits, whole(0x7F800000))
    large = builder.select(is_nan, not_a_number, whole(0x7C00))
    is_small = builder.icmp_unsigned("<", bits, whole(0x38800000))
    is_large = builder.icmp_unsigned(">=", bits, whole(0x47800000))
    half = builder.select(is_small, small, builder.select(is_large, large, usual))
    half = builder.or_(half, builder.lshr(builder.and_(all_bits, whole(-(2**31))), whole(16)))
    return builder.bitcast(builder.trunc(half, _like(kind, ir.IntType(16))), kind)
