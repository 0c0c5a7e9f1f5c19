"""Emit products by sums of two products of bytes or of 16-bit integers, as AVX2 has them.

A quantised input is two signed bytes, too: q = 256 * high + low. Two products of a byte below 128
and a signed byte fit in 16 bits, so narrow bytes are multiplied by both, and as many quads are
summed in 16 bits as cannot overflow. Wide bytes are widened.

The inputs of a quad are 16 bytes: four bytes `high`, four bytes `low`, and q in 16 bits each.
"""

from collections.abc import Callable
from functools import partial

from llvmlite import ir

from rbe_cli.kernels.linear.pair_products import WORDS, PairProducts, ordered_words
from rbe_cli.runtime.simd import (
    I8,
    I16,
    I32,
    INTS,
    LANES,
    by_registers,
    call,
    constant,
    joined,
    load,
    splat,
    store,
)
from rbe_cli.weights.panel_layout import QUADS

_LANES = 8  # of a register
_SUMS = ir.VectorType(I32, _LANES)
_PAIRS = ir.VectorType(I16, 2 * _LANES)
_BYTES = ir.VectorType(I8, 4 * _LANES)
_QUAD_BYTES, _LOW = 16, 4  # of a quad's inputs; where its low bytes begin


class Avx2Products(PairProducts):
    """Multiply with AVX2; attributes as of `quad_products.Products`."""

    block_sums = block_tokens = 6
    input_stride = _QUAD_BYTES
    _words_place = 8

    def store_inputs(self, builder: ir.IRBuilder, address: ir.Value, q: ir.Value) -> None:
        """Write 16 quantised inputs (ints)."""
        high = builder.ashr(builder.add(q, constant(128)), constant(8))
        low = builder.sub(q, builder.shl(high, constant(8)))
        halves = [builder.trunc(part, ir.VectorType(I8, LANES)) for part in (high, low)]
        words = builder.bitcast(ordered_words(builder, q), _BYTES)
        parts = builder.bitcast(joined(builder, [joined(builder, halves), words]), INTS)
        order = [(quad, 4 + quad, 8 + 2 * quad, 9 + 2 * quad) for quad in range(4)]
        by_quad = ir.Constant(INTS, [place for own in order for place in own])
        store(builder, address, builder.shuffle_vector(parts, parts, by_quad))

    def add_tile(
        self,
        builder: ir.IRBuilder,
        sums: list[ir.Value],
        quad_bytes: Callable[[int], ir.Value],
        bits: int,
        x: ir.Value,
    ) -> list[ir.Value]:
        """Return sums plus a tile's products."""
        # Two products by a signed byte are at most 256 * (2 ** bits - 1).
        together = min(128 // (2**bits - 1), QUADS)
        if together <= 1:  # nothing is gained
            return super().add_tile(builder, sums, quad_bytes, bits, x)
        total = sums[0]
        for first in range(0, QUADS, together):
            high = low = constant(0, WORDS)
            for quad in range(first, min(first + together, QUADS)):
                codes = quad_bytes(quad)
                high = self._add_bytes(builder, high, codes, x, _QUAD_BYTES * quad)
                low = self._add_bytes(builder, low, codes, x, _QUAD_BYTES * quad + _LOW)
            for part, unit in ((high, 256), (low, 1)):
                own = builder.bitcast(part, INTS)
                units = builder.bitcast(constant(unit, WORDS), INTS)
                total = builder.add(total, self._dot(builder, own, units))
        return [total]

    def _add_bytes(
        self, builder: ir.IRBuilder, sums: ir.Value, codes: ir.Value, x: ir.Value, place: int
    ) -> ir.Value:
        """Return sums in 16 bits plus the products of a quad and of four signed bytes."""
        factor = splat(builder, load(builder, x, I32, place))
        pairs = by_registers(builder, _LANES, partial(_byte_pair_sums, builder), codes, factor)
        return builder.add(sums, builder.bitcast(pairs, WORDS))

    def _dot(self, builder: ir.IRBuilder, pairs: ir.Value, factor: ir.Value) -> ir.Value:
        """Return the sums of two products in each of 16 lanes."""
        return by_registers(builder, _LANES, partial(_pair_sums, builder), pairs, factor)


def _pair_sums(builder: ir.IRBuilder, pairs: ir.Value, factor: ir.Value) -> ir.Value:
    pairs, factor = (builder.bitcast(own, _PAIRS) for own in (pairs, factor))
    return call(builder, "llvm.x86.avx2.pmadd.wd", _SUMS, pairs, factor)


def _byte_pair_sums(builder: ir.IRBuilder, codes: ir.Value, factor: ir.Value) -> ir.Value:
    """Return the sums of two products of an unsigned and a signed byte, in 16 bits."""
    codes, factor = (builder.bitcast(own, _BYTES) for own in (codes, factor))
    sums = call(builder, "llvm.x86.avx2.pmadd.ub.sw", _PAIRS, codes, factor)
    return builder.bitcast(sums, _SUMS)
