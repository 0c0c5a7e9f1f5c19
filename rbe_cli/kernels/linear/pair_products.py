"""Emit products by sums of two products of 16-bit integers, as plain vectors for any CPU.

Bytes are widened to 16 bits, first a quad's even ones, then its odd ones. So its inputs are
integers of 16 bits in the order of rows 0, 2, 1 and 3.
"""

from collections.abc import Callable

from llvmlite import ir

from rbe_cli.runtime.simd import I16, I32, I64, INTS, LANES, constant, load, splat, store
from rbe_cli.weights.panel_layout import QUADS, VECTOR_BYTES

WORDS = ir.VectorType(I16, 2 * LANES)
_PRODUCTS = ir.VectorType(I32, 2 * LANES)
_EVEN, _ODD = (ir.Constant(INTS, list(range(first, 2 * LANES, 2))) for first in (0, 1))


class PairProducts:
    """Multiply pairs; attributes as of `quad_products.Products`."""

    sum_count = block_sum_count = 1
    block_sums = block_tokens = 3
    unpacked_bytes = 2 * VECTOR_BYTES
    unpacked_parts = 2
    input_stride = 8
    _words_place = 0  # of the 16-bit integers in a quad's inputs

    def inputs_at(self, builder: ir.IRBuilder, words: ir.Value, row: ir.Value) -> ir.Value:
        """Return where the inputs of rows from `row` on lie."""
        return builder.add(words, builder.mul(row, ir.Constant(I64, self.input_stride // 4)))

    def store_inputs(self, builder: ir.IRBuilder, address: ir.Value, q: ir.Value) -> None:
        """Write 16 quantised inputs (ints)."""
        store(builder, address, ordered_words(builder, q))

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
            place = builder.add(x, ir.Constant(I64, self.input_stride * quad))
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
        return [constant(0)] * self.block_sum_count

    def add_part(
        self, builder: ir.IRBuilder, sums: list[ir.Value], codes: ir.Value, part: int, x: ir.Value
    ) -> list[ir.Value]:
        """Return sums plus the products of the even (part 0) or the odd bytes of a quad."""
        word = load(builder, x, I32, self._words_place + 4 * part)
        return [builder.add(sums[0], self._dot(builder, codes, splat(builder, word)))]

    def _dot(self, builder: ir.IRBuilder, pairs: ir.Value, factor: ir.Value) -> ir.Value:
        """Return the sums of two products in each of 16 lanes; LLVM knows the pattern."""
        pairs, factor = (
            builder.sext(builder.bitcast(own, WORDS), _PRODUCTS) for own in (pairs, factor)
        )
        products = builder.mul(pairs, factor)
        return builder.add(
            *(builder.shuffle_vector(products, products, own) for own in (_EVEN, _ODD))
        )


def ordered_words(builder: ir.IRBuilder, q: ir.Value) -> ir.Value:
    """Return 16 quantised inputs (ints) in 16 bits, a quad's rows in the order of `_widened`."""
    words = builder.trunc(q, ir.VectorType(I16, LANES))
    order = [4 * quad + row for quad in range(4) for row in (0, 2, 1, 3)]
    return builder.shuffle_vector(words, words, ir.Constant(INTS, order))


def _widened(builder: ir.IRBuilder, codes: ir.Value) -> list[ir.Value]:
    """Return the even and the odd bytes of a quad as 16-bit integers (ints)."""
    words = builder.bitcast(codes, WORDS)
    even = builder.and_(codes, constant(0x00FF00FF))
    return [even, builder.bitcast(builder.lshr(words, constant(8, WORDS)), INTS)]
