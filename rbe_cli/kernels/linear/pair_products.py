"""Emit products by sums of two products of 16-bit integers, as AVX2 and plain LLVM have them.

A quantised input is a 16-bit integer; a quad's rows lie in the order 0, 2, 1, 3, as its bytes
are widened: first the even ones, then the odd ones.
"""

from collections.abc import Callable

from llvmlite import ir

from rbe_cli.runtime.simd import (
    I16,
    I32,
    I64,
    INTS,
    by_registers,
    call,
    constant,
    load,
    splat,
    store,
)
from rbe_cli.weights.panel_layout import QUADS, VECTOR_BYTES

WORDS = ir.VectorType(I16, 32)
_ORDER = (0, 2, 1, 3)


class PairProducts:
    """Multiply pairs; attributes as of `quad_products.Products`."""

    unpacked_bytes = 2 * VECTOR_BYTES
    unpacked_parts = 2
    sum_count = block_sum_count = 1

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes  # of a register
        self.block_sums = self.block_tokens = 6 if lanes == 8 else 3

    def inputs_at(self, builder: ir.IRBuilder, words: ir.Value, row: ir.Value) -> ir.Value:
        """Return where the inputs of rows from `row` on lie."""
        return builder.add(words, builder.shl(row, ir.Constant(I64, 1)))

    def store_inputs(self, builder: ir.IRBuilder, address: ir.Value, q: ir.Value) -> None:
        """Write 16 quantised inputs (ints)."""
        words = builder.trunc(q, ir.VectorType(I16, 16))
        order = [4 * quad + row for quad in range(4) for row in _ORDER]
        store(builder, address, builder.shuffle_vector(words, words, ir.Constant(INTS, order)))

    def add_tile(
        self,
        builder: ir.IRBuilder,
        sums: list[ir.Value],
        quad_bytes: Callable[[int], ir.Value],
        bits: int,
        x: ir.Value,
    ) -> list[ir.Value]:
        """Return sums plus a tile's products."""
        current = sums
        for quad in range(QUADS):
            place = builder.add(x, ir.Constant(I64, 8 * quad))
            for part, pairs in enumerate(_widened(builder, quad_bytes(quad))):
                current = self.add_part(builder, current, pairs, part, place)
        return current

    def total(self, builder: ir.IRBuilder, sums: list[ir.Value]) -> ir.Value:
        """Return the sum of products."""
        return sums[0]

    def unpack(self, builder: ir.IRBuilder, codes: ir.Value, offset: int, out: ir.Value) -> None:
        """Write a quad's bytes as 16-bit integers without offset."""
        for part, pairs in enumerate(_widened(builder, codes)):
            centred = builder.sub(builder.bitcast(pairs, WORDS), constant(offset, WORDS))
            store(builder, builder.add(out, ir.Constant(I64, VECTOR_BYTES * part)), centred)

    def start(self, builder: ir.IRBuilder, group_sum: ir.Value) -> list[ir.Value]:
        """Return zero sums: unpacked integers have no offset."""
        return [constant(0)]

    def add_part(
        self, builder: ir.IRBuilder, sums: list[ir.Value], codes: ir.Value, part: int, x: ir.Value
    ) -> list[ir.Value]:
        """Return sums plus the products of the even (part 0) or the odd bytes of a quad."""
        lanes = self._lanes
        words = ir.VectorType(I16, 2 * lanes)
        factor = builder.bitcast(splat(builder, load(builder, x, I32, 4 * part), lanes), words)

        def multiply(own: ir.Value, pairs: ir.Value) -> ir.Value:
            return builder.add(own, self._dot(builder, builder.bitcast(pairs, words), factor))

        return [by_registers(builder, lanes, multiply, sums[0], codes)]

    def _dot(self, builder: ir.IRBuilder, pairs: ir.Value, factor: ir.Value) -> ir.Value:
        """Return the sums of two products of 16-bit integers, in each lane of a register."""
        kind = ir.VectorType(I32, self._lanes)
        if self._lanes == 8:
            return call(builder, "llvm.x86.avx2.pmadd.wd", kind, pairs, factor)
        pairs, factor = builder.bitcast(pairs, kind), builder.bitcast(factor, kind)
        sixteen = constant(16, kind)
        second = builder.mul(builder.ashr(pairs, sixteen), builder.ashr(factor, sixteen))
        pairs, factor = builder.shl(pairs, sixteen), builder.shl(factor, sixteen)
        first = builder.mul(builder.ashr(pairs, sixteen), builder.ashr(factor, sixteen))
        return builder.add(first, second)


def _widened(builder: ir.IRBuilder, codes: ir.Value) -> list[ir.Value]:
    """Return the even and the odd bytes of a quad as 16-bit integers (ints)."""
    words = builder.bitcast(codes, WORDS)
    even = builder.and_(codes, constant(0x00FF00FF))
    return [even, builder.bitcast(builder.lshr(words, constant(8, WORDS)), INTS)]
