"""Provide vectors of 16 lanes inside compiled kernels, as LLVM's own vector instructions.

Left to LLVM's loop vectoriser, kernels reach a half to a fifteenth of these speeds. Here
vectors are values: `floats`, `doubles` and `ints` hold 16 lanes of float32, float64 and int32,
and LLVM cuts them to the registers that a CPU has. Memory is given by addresses (int64), aligned
or not, and nothing checks them.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from rbe_cli.runtime.compile_target import compile_target
from rbe_cli.runtime.floating import from_half, multiply_add, to_half

LANES = 16
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
HALFS, FLOATS, DOUBLES = (ir.VectorType(kind, LANES) for kind in (F16, F32, F64))
INTS = ir.VectorType(I32, LANES)
Emit = Callable[..., ir.Value]  # (builder, *values)


class VectorType(types.Type):
    """Define Numba's type of a vector."""

    def __init__(self, name: str, ir_type: ir.Type) -> None:
        self.ir_type = ir_type
        super().__init__(name=name)


floats = VectorType("floats", FLOATS)
doubles = VectorType("doubles", DOUBLES)
ints = VectorType("ints", INTS)


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: VectorType) -> None:
        super().__init__(manager, vector, vector.ir_type)


# For those who emit instructions themselves (kernels/linear/quad_products.py).


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Call one of LLVM's intrinsic functions."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, arguments)


def constant(value: int, kind: ir.VectorType = INTS) -> ir.Constant:
    """Return a vector whose lanes all hold an integer, signed or not."""
    bits = kind.element.width
    signed = (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
    return ir.Constant(kind, [signed] * kind.count)


def by_registers(
    builder: ir.IRBuilder, lanes: int, emit: Callable[..., ir.Value], *vectors: ir.Value
) -> ir.Value:
    """Return what `emit` gives for vectors of 16 lanes, cut into registers of `lanes`."""
    if lanes == LANES:
        return emit(*vectors)
    parts = []
    for first in range(0, LANES, lanes):
        own = ir.Constant(ir.VectorType(I32, lanes), list(range(first, first + lanes)))
        parts.append(emit(*[builder.shuffle_vector(part, part, own) for part in vectors]))
    return joined(builder, parts)


def joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Return two, four, ... vectors of the same kind as one."""
    while len(parts) > 1:
        lanes = 2 * parts[0].type.count
        order = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        parts = [
            builder.shuffle_vector(a, b, order)
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int = LANES) -> ir.Value:
    """Return a vector whose lanes all hold `value`."""
    vector = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, offset: int = 0) -> ir.Value:
    """Return what lies `offset` bytes after `address`."""
    address = builder.add(address, ir.Constant(I64, offset))
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Write `value` to `address`."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


# Functions for kernels.


def kernel_intrinsic(emitter: Callable[..., Any]) -> Any:
    """Decorate a function that emits instructions; type checkers see its signature."""
    return intrinsic(emitter)


def define(result: types.Type, arguments: tuple[types.Type, ...], emit: Emit) -> Any:
    """Return a function that takes `arguments`, to which Numba casts, and emits `emit`."""
    signature = result(*arguments)

    def generate(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        value = emit(builder, *values)
        return context.get_dummy_value() if result is types.void else value

    def none(_: Any) -> Any:
        return signature, generate

    def one(_: Any, a: Any) -> Any:
        return signature, generate

    def two(_: Any, a: Any, b: Any) -> Any:
        return signature, generate

    def three(_: Any, a: Any, b: Any, c: Any) -> Any:
        return signature, generate

    return intrinsic((none, one, two, three)[len(arguments)])


def _llvm(name: str, result: ir.Type) -> Emit:
    return lambda builder, *values: call(builder, name, result, *values)


def _instruction(name: str, *more: Any) -> Emit:
    return lambda builder, *values: getattr(builder, name)(*values, *more)


def _store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    store(builder, address, value)


def _store_truncated(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    store(builder, address, builder.trunc(value, I8))


def _stream(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    """Store 64 bytes in four stores of 16, which pass by the cache."""
    hint = builder.module.add_metadata([ir.Constant(I32, 1)])
    for part in range(0, LANES, 4):
        lanes = ir.Constant(ir.VectorType(I32, 4), list(range(part, part + 4)))
        own = builder.shuffle_vector(value, value, lanes)
        place = builder.add(address, ir.Constant(I64, 4 * part))
        instruction = builder.store(own, builder.inttoptr(place, own.type.as_pointer()))
        instruction.align = 16
        instruction.set_metadata("nontemporal", hint)


def _fence(builder: ir.IRBuilder) -> None:
    builder.fence("seq_cst")


def _reduce_sum(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Return the lanes' sum in a written order: halves are added until one lane is left."""
    lanes = LANES
    while lanes > 1:
        lanes //= 2
        low, high = (
            ir.Constant(ir.VectorType(I32, lanes), list(range(start, start + lanes)))
            for start in (0, lanes)
        )
        halves = [builder.shuffle_vector(vector, vector, half) for half in (low, high)]
        vector = builder.fadd(*halves)
    return builder.extract_element(vector, ir.Constant(I32, 0))


def _reduce_max(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    return call(builder, "llvm.vector.reduce.fmax.v16f32", F32, vector)


def prefetch_line(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Fetch the line at `address` into the cache."""
    pointer = builder.inttoptr(address, I8.as_pointer())
    read, keep_near, data = (ir.Constant(I32, n) for n in (0, 3, 1))
    call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, read, keep_near, data)


def _pause(builder: ir.IRBuilder) -> None:
    """Wait for some nanoseconds."""
    machine = compile_target().architecture
    if machine == "x86_64":
        call(builder, "llvm.x86.sse2.pause", ir.VoidType())
    elif machine == "aarch64":  # empties the pipeline; `yield` takes no time on most CPUs
        call(builder, "llvm.aarch64.isb", ir.VoidType(), ir.Constant(I32, 15))


def _load_acquire(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.load_atomic(builder.inttoptr(address, I64.as_pointer()), "acquire", 8)


def _store_release(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
    builder.store_atomic(value, builder.inttoptr(address, I64.as_pointer()), "release", 8)


def _fetch_add(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> ir.Value:
    return builder.atomic_rmw("add", builder.inttoptr(address, I64.as_pointer()), value, "seq_cst")


def _select_larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _select_smaller(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _select_by_sign(
    builder: ir.IRBuilder, x: ir.Value, positive: ir.Value, other: ir.Value
) -> ir.Value:
    zero = ir.Constant(FLOATS, [0.0] * LANES)
    return builder.select(builder.fcmp_ordered(">", x, zero), positive, other)


def _power_of_2(builder: ir.IRBuilder, exponent: ir.Value) -> ir.Value:
    """Return 2^n for whole numbers n from -1022 to 1023."""
    longs = ir.VectorType(I64, LANES)
    # The sum has n + 1023 in its lowest bits, as its last bit stands for 1.
    shifted = builder.fadd(exponent, ir.Constant(DOUBLES, [1.5 * 2.0**52 + 1023] * LANES))
    bits = builder.shl(builder.bitcast(shifted, longs), ir.Constant(longs, [52] * LANES))
    return builder.bitcast(bits, DOUBLES)


_address = types.int64

load_floats = define(floats, (_address,), lambda b, a: load(b, a, FLOATS))
load_ints = define(ints, (_address,), lambda b, a: load(b, a, INTS))
store_floats = define(types.void, (_address, floats), _store)
load_float = define(types.float32, (_address,), lambda b, a: load(b, a, F32))
load_int = define(types.int64, (_address,), lambda b, a: load(b, a, I64))
load_int32 = define(types.int32, (_address,), lambda b, a: load(b, a, I32))
load_byte = define(types.int64, (_address,), lambda b, a: b.zext(load(b, a, I8), I64))
load_double = define(types.float64, (_address,), lambda b, a: load(b, a, F64))
load_halfs = define(floats, (_address,), lambda b, a: from_half(b, load(b, a, HALFS)))
load_half = define(types.float32, (_address,), lambda b, a: from_half(b, load(b, a, F16)))
store_float = define(types.void, (_address, types.float32), _store)
stream_floats = define(types.void, (_address, floats), _stream)  # to a multiple of 16 bytes
fence = define(types.void, (), _fence)  # what streams is in memory before what follows
store_double = define(types.void, (_address, types.float64), _store)
store_halfs = define(types.void, (_address, floats), lambda b, a, v: store(b, a, to_half(b, v)))
store_half = define(
    types.void, (_address, types.float32), lambda b, a, v: store(b, a, to_half(b, v))
)
store_byte = define(types.void, (_address, types.int32), _store_truncated)
store_int32 = define(types.void, (_address, types.int32), _store)
store_int = define(types.void, (_address, types.int64), _store)

splat_float = define(floats, (types.float32,), splat)
splat_int = define(ints, (types.int32,), splat)
to_floats = define(floats, (ints,), _instruction("sitofp", FLOATS))
to_ints = define(ints, (floats,), _instruction("fptosi", INTS))  # towards zero
as_floats = define(floats, (ints,), _instruction("bitcast", FLOATS))  # the same bits
round_to_even = define(floats, (floats,), _llvm("llvm.rint.v16f32", FLOATS))
absolute = define(floats, (floats,), _llvm("llvm.fabs.v16f32", FLOATS))
larger = define(floats, (floats, floats), _select_larger)  # b where either is not a number
smaller = define(floats, (floats, floats), _select_smaller)
where_positive = define(floats, (floats, floats, floats), _select_by_sign)  # x > 0 ? a : b
with_sign = define(floats, (floats, floats), _llvm("llvm.copysign.v16f32", FLOATS))
fused = define(floats, (floats, floats, floats), multiply_add)  # a b + c, rounded once
splat_double = define(doubles, (types.float64,), splat)
load_doubles = define(doubles, (_address,), lambda b, a: load(b, a, DOUBLES))
store_doubles = define(types.void, (_address, doubles), _store)
round_doubles = define(doubles, (doubles,), _llvm("llvm.rint.v16f64", DOUBLES))
larger_double = define(doubles, (doubles, doubles), _select_larger)
smaller_double = define(doubles, (doubles, doubles), _select_smaller)
double_power_of_2 = define(doubles, (doubles,), _power_of_2)
double_bits = define(types.int64, (types.float64,), _instruction("bitcast", I64))
bits_double = define(types.float64, (types.int64,), _instruction("bitcast", F64))
widen = define(doubles, (floats,), _instruction("fpext", DOUBLES))
lane_sum_doubles = define(types.float64, (doubles,), _reduce_sum)
lane_sum = define(types.float32, (floats,), _reduce_sum)
lane_max = define(types.float32, (floats,), _reduce_max)
lane_sum_ints = define(types.int32, (ints,), _llvm("llvm.vector.reduce.add.v16i32", I32))

prefetch = define(types.void, (_address,), prefetch_line)
pause = define(types.void, (), _pause)
load_acquire = define(types.int64, (_address,), _load_acquire)
fetch_add = define(types.int64, (_address, types.int64), _fetch_add)  # the value before
store_release = define(types.void, (_address, types.int64), _store_release)


@kernel_intrinsic
def record_at(typing: Any, dtype: Any, address: Any, index: Any) -> Any:
    """Return a record of a (global) numpy dtype in an array at an address."""
    kind = dtype.dtype

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, address, index = values
        place = builder.add(address, builder.mul(index, ir.Constant(I64, kind.size)))
        return builder.inttoptr(place, context.get_value_type(kind))

    return kind(dtype, types.int64, types.int64), emit


@kernel_intrinsic
def record(typing: Any, dtype: Any, address: Any) -> Any:
    """Return the record of a (global) numpy dtype at an address."""
    kind = dtype.dtype

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        return builder.inttoptr(values[1], context.get_value_type(kind))

    return kind(dtype, types.int64), emit


@kernel_intrinsic
def address_of(typing: Any, own: Any) -> Any:
    """Return the address of a record."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        return builder.ptrtoint(values[0], I64)

    return types.int64(own), emit


@kernel_intrinsic
def invoke(typing: Any, program: Any, numbers: Any) -> Any:
    """Call the program at an address (`native.load`) with a tuple of int64 numbers."""
    count = numbers.count
    taken = types.UniTuple(types.int64, count)

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        pointer = I8.as_pointer()
        kind = ir.FunctionType(I32, [pointer] * 3 + [I64] * count)
        unused = builder.bitcast(cgutils.alloca_once(builder, I64), pointer)
        function = builder.inttoptr(values[0], kind.as_pointer())
        given = [builder.extract_value(values[1], i) for i in range(count)]
        builder.call(function, [unused, unused, ir.Constant(pointer, None), *given])
        return context.get_dummy_value()

    return types.void(types.int64, taken), emit


def _define_operators() -> None:
    """Define `+ - * /` of vectors, and `<< >> & |` of ints (shifts fill with signs)."""
    by_operator = {
        operator.add: ("fadd", "add"),
        operator.sub: ("fsub", "sub"),
        operator.mul: ("fmul", "mul"),
        operator.truediv: ("fdiv", None),
        operator.lshift: (None, "shl"),
        operator.rshift: (None, "ashr"),
        operator.and_: (None, "and_"),
        operator.or_: (None, "or_"),
    }
    for symbol, (of_floats, of_ints) in by_operator.items():
        named = {floats: of_floats, doubles: of_floats, ints: of_ints}
        _define(symbol, {kind: name for kind, name in named.items() if name is not None})


def _define(symbol: Callable[..., Any], instructions: dict[VectorType, str]) -> None:
    """Define an operator of two vectors of one type, by the name of an instruction for each."""

    @infer_global(symbol)
    class _Typing(ConcreteTemplate):
        cases: ClassVar = [kind(kind, kind) for kind in instructions]

    for kind, name in instructions.items():
        lower_builtin(symbol, kind, kind)(partial(_emit_operator, name))


def _emit_operator(
    name: str, context: Any, builder: ir.IRBuilder, signature: Any, values: Any
) -> ir.Value:
    return getattr(builder, name)(*values)


_define_operators()
