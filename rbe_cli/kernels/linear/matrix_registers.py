"""Emit the instructions of Intel's Advanced Matrix Extensions (AMX) for products of bytes.

A CPU with AMX has eight registers of 16 rows of 64 bytes. One instruction adds the product of
16 tokens' 64 bytes and of 16 quads of 16 columns, as `vnni_products.SignedProducts` writes them,
to 16 x 16 sums (TDPBSSD: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1,
chapter 18).

Registers 0 to 3 hold the sums of two blocks of tokens (or of the two bytes of one block) by two
panels; 4 and 5 hold inputs, 6 and 7 weights: four products for four loads.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types

from rbe_cli.runtime.arithmetic import Arithmetic, choice_type
from rbe_cli.runtime.simd import I8, I16, I64, call, kernel_intrinsic, store

REGISTER_ROWS, REGISTER_ROW_BYTES = 16, 64
_CONFIGURATION = ir.ArrayType(I8, 64)
_SUMS, _INPUTS, _WEIGHTS = (0, 1, 2, 3), (4, 5), (6, 7)


class AtOnce(NamedTuple):
    """Say how many panels are unpacked, and how many tokens have totals at a time."""

    panels: int
    tokens: int


WITH_MATRICES = AtOnce(4, 64)


def _emit(builder: ir.IRBuilder, name: str, *arguments: ir.Value) -> None:
    call(builder, f"llvm.x86.{name}", ir.VoidType(), *arguments)


def _register(number: int) -> ir.Constant:
    return ir.Constant(I8, number)


def _move(
    builder: ir.IRBuilder, name: str, register: int, address: ir.Value, stride: ir.Value
) -> None:
    """Load or store a register whose rows lie `stride` bytes apart."""
    place = builder.inttoptr(address, I8.as_pointer())
    _emit(builder, name, _register(register), place, stride)


@kernel_intrinsic
def has_matrix_registers(typing: Any, arithmetic: Any) -> Any:
    """Return whether the instruction set has these registers."""
    value = ir.Constant(ir.IntType(1), arithmetic.value.has_matrices)
    return types.boolean(arithmetic), lambda *_: value


@kernel_intrinsic
def halves_of(typing: Any, arithmetic: Any) -> Any:
    """Return how many bytes a quantised input has: two, or one of int8 activations."""
    value = ir.Constant(I64, 1 if arithmetic.value.int8 else 2)
    return types.int64(arithmetic), lambda *_: value


@kernel_intrinsic
def without_matrices(typing: Any, arithmetic: Any) -> Any:
    """Return the arithmetic of vectors alone."""
    own = arithmetic.value
    found = choice_type(Arithmetic(own.instructions, own.int8))
    return found(arithmetic), lambda context, *_: context.get_dummy_value()


@kernel_intrinsic
def configure_registers(typing: Any, tokens: Any) -> Any:
    """Give the thread its registers, for blocks of at most `tokens` tokens."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        most = ir.Constant(I64, REGISTER_ROWS)
        rows = builder.select(builder.icmp_signed("<", values[0], most), values[0], most)
        memory = cgutils.alloca_once(builder, _CONFIGURATION)
        builder.store(ir.Constant(_CONFIGURATION, None), memory)
        place = builder.ptrtoint(memory, I64)

        def put(offset: int, value: ir.Value) -> None:
            store(builder, builder.add(place, ir.Constant(I64, offset)), value)

        put(0, ir.Constant(I8, 1))  # the palette; widths from byte 16 on, rows from 48
        for register in (*_SUMS, *_INPUTS, *_WEIGHTS):
            put(16 + 2 * register, ir.Constant(I16, REGISTER_ROW_BYTES))
            own = ir.Constant(I64, REGISTER_ROWS) if register in _WEIGHTS else rows
            put(48 + register, builder.trunc(own, I8))
        _emit(builder, "ldtilecfg", builder.bitcast(memory, I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), emit


@kernel_intrinsic
def release_registers(typing: Any) -> Any:
    """Leave the registers as they were: then nobody has to save them."""

    def emit(context: Any, builder: ir.IRBuilder, *_: Any) -> ir.Value:
        _emit(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), emit


@kernel_intrinsic
def clear_sums(typing: Any) -> Any:
    """Set all sums to zero."""

    def emit(context: Any, builder: ir.IRBuilder, *_: Any) -> ir.Value:
        for register in _SUMS:
            _emit(builder, "tilezero", _register(register))
        return context.get_dummy_value()

    return types.void(), emit


@kernel_intrinsic
def add_matrix_products(
    typing: Any, first: Any, second: Any, stride: Any, panel: Any, other: Any
) -> Any:
    """Add the products of two blocks of inputs and two panels to the sums.

    `first` and `second` are the addresses of 64 bytes of the blocks' first tokens; the next token's
    lie `stride` bytes on. `panel` and `other` are the addresses of the panels' 16 quads.
    """

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        first, second, stride, panel, other = values
        one_row = ir.Constant(I64, REGISTER_ROW_BYTES)
        for block, inputs in enumerate((first, second)):
            _move(builder, "tileloadd64", _INPUTS[block], inputs, stride)
            for column, weights in enumerate((panel, other)):
                if block == 0:
                    _move(builder, "tileloadd64", _WEIGHTS[column], weights, one_row)
                registers = _SUMS[2 * block + column], _INPUTS[block], _WEIGHTS[column]
                _emit(builder, "tdpbssd", *map(_register, registers))
        return context.get_dummy_value()

    address = types.int64
    return types.void(address, address, types.int64, address, address), emit


@kernel_intrinsic
def store_sums(typing: Any, first: Any, second: Any, stride: Any) -> Any:
    """Write int32 sums `[rows, 2, 16]` of two blocks, whose rows begin every `stride` bytes."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        first, second, stride = values
        for block, target in enumerate((first, second)):
            for column in range(2):
                place = builder.add(target, ir.Constant(I64, REGISTER_ROW_BYTES * column))
                _move(builder, "tilestored64", _SUMS[2 * block + column], place, stride)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit
