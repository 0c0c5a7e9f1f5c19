"""Emit products of tiles: some rows of one matrix and some columns of another.

Each element of a product is one chain of sums, c = a[k] b[k] + c for k = 0, 1, ..., however the
matrices are cut into tiles. So all instruction sets give the same bits. A sum of float32 is a fused
multiply-add; in float64 the product is rounded too, as the fused operation cannot be written in
instructions that every CPU has.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types

from rbe_cli.runtime.arithmetic import Choice
from rbe_cli.runtime.floating import multiply_add
from rbe_cli.runtime.instruction_sets import InstructionSet
from rbe_cli.runtime.simd import F32, F64, I64, kernel_intrinsic, load, splat, store

SINGLE, DOUBLE = Choice("single"), Choice("double")
"""The types of elements, which compiled functions take as an argument."""
ROW_PARTS = 3  # a tile has one, two or three times `TileShape.unit` rows


class TileShape(NamedTuple):
    """The shape of a tile, whose sums fit a CPU's registers.

    Attributes:
        unit: rows of the smallest tile; the largest has `ROW_PARTS` times as many.
        vectors: columns, in vectors of 64 bytes.
    """

    unit: int
    vectors: int


def tile_shape(instructions: InstructionSet) -> TileShape:
    """Return the shape of the tiles of an instruction set."""
    return TileShape(4, 2) if instructions is InstructionSet.avx512 else TileShape(2, 1)


def _vector(kind: Any) -> ir.VectorType:
    return ir.VectorType(F32, 16) if kind.value == "single" else ir.VectorType(F64, 8)


@kernel_intrinsic
def element_bytes(typing: Any, kind: Any) -> Any:
    """Return the bytes of an element, a constant for the compiler."""
    value = 4 if kind.value == "single" else 8
    return types.int64(kind), lambda *_: ir.Constant(I64, value)


@kernel_intrinsic
def tile_rows(typing: Any, arithmetic: Any) -> Any:
    """Return the rows of the largest tile."""
    value = ROW_PARTS * tile_shape(arithmetic.value.instructions).unit
    return types.int64(arithmetic), lambda *_: ir.Constant(I64, value)


@kernel_intrinsic
def tile_columns(typing: Any, arithmetic: Any, kind: Any) -> Any:
    """Return the columns of a tile."""
    value = tile_shape(arithmetic.value.instructions).vectors * _vector(kind).count
    return types.int64(arithmetic, kind), lambda *_: ir.Constant(I64, value)


def _define_add_tile(parts: int) -> Any:
    """Return the function that multiplies tiles of `parts` times the unit of rows."""

    @kernel_intrinsic
    def add_tile(
        typing: Any,
        arithmetic: Any,
        kind: Any,
        a: Any,
        a_row: Any,
        a_step: Any,
        last_row: Any,
        b: Any,
        b_step: Any,
        steps: Any,
        c: Any,
        c_row: Any,
        is_first: Any,
    ) -> Any:
        """Add a product to a tile, or write it there if `is_first`.

        `a` is the address of the first row's first element, `a_row` and `a_step` the bytes between
        rows and between steps; rows after `last_row` repeat it. `b` is the address of a step's
        columns, `b_step` the bytes between steps. `c` is the address of the tile, `c_row` the bytes
        between its rows.
        """
        shape, vector = tile_shape(arithmetic.value.instructions), _vector(kind)
        rows = parts * shape.unit

        def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
            _, _, a, a_row, a_step, last_row, b, b_step, steps, c, c_row, is_first = values
            tile = _Tile(builder, vector, rows, shape.vectors)
            tile.begin(c, c_row, is_first)
            tile.multiply(a, a_row, a_step, last_row, b, b_step, steps)
            tile.write(c, c_row)
            return context.get_dummy_value()

        numbers = [types.int64] * 10
        return types.void(arithmetic, kind, *numbers), emit

    return add_tile


class _Tile:
    """The sums of a tile, in registers."""

    def __init__(
        self, builder: ir.IRBuilder, vector: ir.VectorType, rows: int, vectors: int
    ) -> None:
        self._builder = builder
        self._vector = vector
        self._rows = rows
        self._vectors = vectors
        self._sums = [
            [cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)
        ]

    def begin(self, c: ir.Value, c_row: ir.Value, is_first: ir.Value) -> None:
        """Set the sums to zero, or to what the tile holds."""
        builder = self._builder
        with builder.if_else(builder.icmp_signed("!=", is_first, ir.Constant(I64, 0))) as ways:
            with ways[0]:
                for place in (place for row in self._sums for place in row):
                    builder.store(ir.Constant(self._vector, [0.0] * self._vector.count), place)
            with ways[1]:
                for row, places in enumerate(self._sums):
                    start = builder.add(c, builder.mul(c_row, ir.Constant(I64, row)))
                    for number, place in enumerate(places):
                        builder.store(load(builder, start, self._vector, 64 * number), place)

    def multiply(
        self,
        a: ir.Value,
        a_row: ir.Value,
        a_step: ir.Value,
        last_row: ir.Value,
        b: ir.Value,
        b_step: ir.Value,
        steps: ir.Value,
    ) -> None:
        """Add the product, step by step."""
        builder = self._builder
        starts = []
        for row in range(self._rows):
            own = ir.Constant(I64, row)
            own = builder.select(builder.icmp_signed("<", own, last_row), own, last_row)
            starts.append(builder.add(a, builder.mul(own, a_row)))
        with cgutils.for_range(builder, steps) as loop:
            along_a, along_b = (builder.mul(loop.index, step) for step in (a_step, b_step))
            line = builder.add(b, along_b)
            columns = [load(builder, line, self._vector, 64 * i) for i in range(self._vectors)]
            for start, places in zip(starts, self._sums, strict=True):
                one = load(builder, builder.add(start, along_a), self._vector.element)
                factor = splat(builder, one, self._vector.count)
                for own_columns, place in zip(columns, places, strict=True):
                    builder.store(self._added(factor, own_columns, builder.load(place)), place)

    def write(self, c: ir.Value, c_row: ir.Value) -> None:
        """Write the sums to the tile."""
        builder = self._builder
        for row, places in enumerate(self._sums):
            start = builder.add(c, builder.mul(c_row, ir.Constant(I64, row)))
            for number, place in enumerate(places):
                own = builder.add(start, ir.Constant(I64, 64 * number))
                store(builder, own, builder.load(place))

    def _added(self, a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
        if self._vector.element == F32:
            return multiply_add(self._builder, a, b, total)
        return self._builder.fadd(self._builder.fmul(a, b), total)


add_small_tile, add_middle_tile, add_large_tile = (
    _define_add_tile(parts) for parts in range(1, ROW_PARTS + 1)
)
