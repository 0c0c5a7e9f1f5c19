"""Pack integers into the tiles of weights/trellis_layout.py, in compiled code.

The integers come as the entropy decoder leaves them: 16 columns of 32 rows, int16, one column after
the other. Where the bits go is told by the tables of the layout; `trellis_panels` has the twin in
numpy.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from rbe_cli.codec.ectcq.unpack_records import MOST_OVERFLOW_BITS
from rbe_cli.runtime.simd import I8, I16, I32, I64, INTS, LANES, call, kernel_intrinsic, load, store
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, PLANES, QUADS, TILE_ROWS, VECTOR_BYTES
from rbe_cli.weights.trellis_layout import FIELDS, Field

_COLUMN_BYTES = 2 * TILE_ROWS
_COLUMN = ir.VectorType(I16, TILE_ROWS)
_QUAD_BYTES = ir.VectorType(I8, TILE_ROWS)
_HALF_INTS = ir.VectorType(I32, QUADS)


def _splat(value: int, kind: ir.VectorType = INTS) -> ir.Constant:
    bits = kind.element.width
    return ir.Constant(
        kind, [(value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))] * kind.count
    )


def _order(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))


@kernel_intrinsic
def magnitude_bits(typing: Any, tile: Any) -> Any:
    """Return the least b >= 0 with all integers of a tile in [-2 ** b, 2 ** b - 1]."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        found = None
        for column in range(PANEL_COLUMNS):
            own = load(builder, values[0], _COLUMN, _COLUMN_BYTES * column)
            own = builder.xor(own, builder.ashr(own, _splat(15, _COLUMN)))
            found = own if found is None else builder.or_(found, own)
        largest = call(builder, "llvm.vector.reduce.or.v32i16", I16, found)
        largest = builder.zext(largest, I64)
        zeros = call(builder, "llvm.ctlz.i64", I64, largest, ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(I64, 64), zeros)

    return types.int64(types.int64), emit


def _quads(
    builder: ir.IRBuilder, tile: ir.Value, shift: ir.Value, offset: ir.Value
) -> list[ir.Value]:
    """Return (n >> shift) + offset of a tile's integers n, as bytes: 8 quads of 64, in 16 lanes."""
    shifts, offsets = (
        builder.shuffle_vector(one, one, _order([0] * TILE_ROWS))
        for one in (
            builder.insert_element(
                ir.Constant(_COLUMN, ir.Undefined), builder.trunc(own, I16), ir.Constant(I32, 0)
            )
            for own in (shift, offset)
        )
    )
    columns = []
    for column in range(PANEL_COLUMNS):
        own = load(builder, tile, _COLUMN, _COLUMN_BYTES * column)
        own = builder.add(builder.ashr(own, shifts), offsets)
        columns.append(builder.bitcast(builder.trunc(own, _QUAD_BYTES), _HALF_INTS))
    # Lane 8 h + i of vector j: quad i of column 8 h + j. The bits of i and j change places.
    found = [
        builder.shuffle_vector(columns[j], columns[j + QUADS], _order(range(LANES)))
        for j in range(QUADS)
    ]
    for bit in (1, 2, 4):
        first = [lane if not lane & bit else LANES + lane - bit for lane in range(LANES)]
        second = [lane + bit if not lane & bit else LANES + lane for lane in range(LANES)]
        for j in range(QUADS):
            if not j & bit:
                a, b = found[j], found[j + bit]
                found[j] = builder.shuffle_vector(a, b, _order(first))
                found[j + bit] = builder.shuffle_vector(a, b, _order(second))
    return found


def _store_fields(
    builder: ir.IRBuilder, quads: list[ir.Value], fields: Sequence[Sequence[Field]], out: ir.Value
) -> None:
    """Store the fields of each quad's bytes, as a table places them."""
    vectors: dict[int, ir.Value] = {}
    for quad, own in zip(quads, fields, strict=True):
        for vector, bit, count, target in own:
            moved = quad
            if target > bit:
                moved = builder.lshr(quad, _splat(target - bit))
            elif target < bit:
                moved = builder.shl(quad, _splat(bit - target))
            moved = builder.and_(moved, _splat((2**count - 1 << bit) * 0x01010101))
            vectors[vector] = builder.or_(vectors[vector], moved) if vector in vectors else moved
    for vector, value in vectors.items():
        place = builder.add(out, ir.Constant(I64, VECTOR_BYTES * vector))
        store(builder, place, value)


def _by_number(
    builder: ir.IRBuilder, number: ir.Value, cases: dict[int, Callable[[], None]]
) -> None:
    """Run the case of a number; none if there is no such case."""
    end = builder.append_basic_block("packed")
    branch = builder.switch(number, end)
    for own, emit in cases.items():
        block = builder.append_basic_block(f"pack.{own}")
        branch.add_case(ir.Constant(I64, own), block)
        builder.position_at_end(block)
        emit()
        builder.branch(end)
    builder.position_at_end(end)


def _plane_fields(bits: int) -> list[list[Field]]:
    """Return the fields of 8 quads of codes in planes (panel_layout.py)."""
    fields: list[list[Field]] = [[] for _ in range(QUADS)]
    done = 0
    for own in PLANES[bits]:
        per_vector = 8 // own
        for quad in range(QUADS):
            place = done + quad // per_vector, own * (quad % per_vector)
            fields[quad].append(Field(*place, own, done))
        done += own
    return fields


@kernel_intrinsic
def pack_codes(typing: Any, tile: Any, width: Any, offset: Any, out: Any) -> Any:
    """Store the codes n + offset of a tile of some width, without their lowest two bits."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        tile, width, offset, out = values
        quads = _quads(builder, tile, ir.Constant(I64, 0), offset)

        def case(own: int) -> Callable[[], None]:
            return lambda: _store_fields(builder, quads, FIELDS[own], out)

        _by_number(builder, width, {own: case(own) for own in FIELDS if own > 1})
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), emit


@kernel_intrinsic
def pack_overflow(typing: Any, tile: Any, bits: Any, out: Any) -> Any:
    """Store the codes (n >> 8) + 2 ** (bits - 1) of a tile in planes."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        tile, bits, out = values
        one = ir.Constant(I64, 1)
        offset = builder.shl(one, builder.sub(bits, one))
        quads = _quads(builder, tile, ir.Constant(I64, 8), offset)

        def case(own: int) -> Callable[[], None]:
            return lambda: _store_fields(builder, quads, _plane_fields(own), out)

        _by_number(builder, bits, {own: case(own) for own in range(1, MOST_OVERFLOW_BITS + 1)})
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), emit


def _index_swaps() -> list[tuple[int, int]]:
    """Return which bits of a bit's number to swap in turn, so that 4 * quad + row becomes
    8 * row + quad.
    """
    wanted = [2, 3, 4, 0, 1]  # bit i of the new number is bit wanted[i] of the old one
    current, swaps = [0, 1, 2, 3, 4], []
    for place, bit in enumerate(wanted):
        other = current.index(bit)
        if other != place:
            swaps.append((place, other))
            current[place], current[other] = current[other], current[place]
    return swaps


@kernel_intrinsic
def pack_plane(typing: Any, words: Any, out: Any) -> Any:
    """Store 16 words of 32 rows, a column each, as a plane: a byte has a bit of each quad."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        own = load(builder, values[0], INTS)
        for low, high in _index_swaps():
            distance = (1 << high) - (1 << low)
            moved = [n for n in range(32) if n >> low & 1 and not n >> high & 1]
            mask = _splat(sum(1 << n for n in moved))
            shifted = builder.lshr(own, _splat(distance))
            changed = builder.and_(builder.xor(shifted, own), mask)
            own = builder.xor(own, builder.xor(changed, builder.shl(changed, _splat(distance))))
        store(builder, values[1], own)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 2), emit
