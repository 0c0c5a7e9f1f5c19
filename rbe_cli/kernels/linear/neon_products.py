"""Emit products by the vector instructions of 64-bit Arm, whose registers have 4 lanes.

Most CPUs have dot products of four signed bytes (`sdot`, from Armv8.2 on); all have products of
16-bit integers that are added to sums (`smlal`).
"""

from collections.abc import Callable

from llvmlite import ir

from rbe_cli.kernels.linear.pair_products import WORDS, PairProducts
from rbe_cli.kernels.linear.vnni_products import HALF_BYTES, VnniProducts
from rbe_cli.runtime.simd import (
    I8,
    I16,
    I32,
    INTS,
    LANES,
    call,
    constant,
    joined,
    load,
    splat,
    store,
)
from rbe_cli.weights.panel_layout import QUADS

_BYTES = ir.VectorType(I8, 64)
_INTS_4, _BYTES_16 = ir.VectorType(I32, 4), ir.VectorType(I8, 16)


class NeonDotProducts(VnniProducts):
    """Multiply as VNNI does, but signed bytes alone."""

    def __init__(self, int8: bool) -> None:
        super().__init__(4, int8)

    def add_tile(
        self,
        builder: ir.IRBuilder,
        sums: list[ir.Value],
        quad_bytes: Callable[[int], ir.Value],
        bits: int,
        x: ir.Value,
    ) -> list[ir.Value]:
        """Return sums plus a tile's products; a register of inputs serves four quads."""
        inputs = [
            [load(builder, x, _INTS_4, HALF_BYTES * half + 16 * four) for four in range(QUADS // 4)]
            for half in range(len(sums))
        ]
        current = list(sums)
        for quad in range(QUADS):
            codes = quad_bytes(quad)
            if bits == 8:
                codes = builder.xor(codes, constant(0x80808080))  # 128 less, and signed
            for half, own in enumerate(inputs):
                factor = _lanes(builder, own[quad // 4], [quad % 4] * 4)
                current[half] = self._dot(builder, current[half], codes, factor)
        if bits == 8:
            correction = builder.shl(self._input_sum(builder, inputs), ir.Constant(I32, 7))
            current[-1] = builder.add(current[-1], splat(builder, correction))
        return current

    def unpack(self, builder: ir.IRBuilder, codes: ir.Value, offset: int, out: ir.Value) -> None:
        """Write a quad's bytes as signed ones without offset."""
        store(builder, out, builder.sub(builder.bitcast(codes, _BYTES), constant(offset, _BYTES)))

    def start(self, builder: ir.IRBuilder, group_sum: ir.Value) -> list[ir.Value]:
        """Return zero sums: unpacked bytes have no offset."""
        return [constant(0)] * self.block_sum_count

    def _multiply(
        self, builder: ir.IRBuilder, sums: ir.Value, codes: ir.Value, factor: ir.Value
    ) -> ir.Value:
        """Return four lanes of sums plus dot products."""
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        codes, factor = builder.bitcast(codes, _BYTES_16), builder.bitcast(factor, _BYTES_16)
        return call(builder, name, _INTS_4, sums, codes, factor)

    def _input_sum(self, builder: ir.IRBuilder, inputs: list[list[ir.Value]]) -> ir.Value:
        """Return the sum of a tile's quantised inputs (i32)."""
        ones, total = constant(0x01010101, _INTS_4), constant(0, _INTS_4)
        for half in inputs:
            total = builder.shl(total, constant(8, _INTS_4))
            for own in half:
                total = self._multiply(builder, total, own, ones)
        return call(builder, "llvm.vector.reduce.add.v4i32", I32, total)


class NeonProducts(PairProducts):
    """Multiply pairs, whose two products are added when a tile's sums are complete."""

    sum_count = block_sum_count = 2  # of the lower and of the upper eight columns
    block_sums = 6

    def total(self, builder: ir.IRBuilder, sums: list[ir.Value]) -> ir.Value:
        """Return the sum of products: of two lanes that follow each other."""
        parts = [
            builder.shuffle_vector(*sums, ir.Constant(INTS, list(range(first, 2 * LANES, 2))))
            for first in (0, 1)
        ]
        return builder.add(*parts)

    def add_part(
        self, builder: ir.IRBuilder, sums: list[ir.Value], codes: ir.Value, part: int, x: ir.Value
    ) -> list[ir.Value]:
        """Return sums plus the products of the even (part 0) or the odd bytes of a quad."""
        words = builder.bitcast(codes, WORDS)
        # Both parts' inputs are loaded at once: of one, LLVM would fill half a register.
        inputs = load(builder, x, ir.VectorType(I32, 2), self._words_place)
        factor = builder.bitcast(_lanes(builder, inputs, [part] * 4), ir.VectorType(I16, 8))
        found = []
        for half, own in enumerate(sums):
            registers = []
            for first in range(0, LANES, 4):
                lanes = list(range(first, first + 4))
                pairs = _lanes(builder, words, [LANES * half + lane for lane in lanes])
                same = _lanes(builder, factor, [lane % 8 for lane in lanes])
                products = call(builder, "llvm.aarch64.neon.smull.v4i32", _INTS_4, pairs, same)
                registers.append(builder.add(_lanes(builder, own, lanes), products))
            found.append(joined(builder, registers))
        return found


def _lanes(builder: ir.IRBuilder, vector: ir.Value, lanes: list[int]) -> ir.Value:
    """Return some lanes of a vector as another."""
    order = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return builder.shuffle_vector(vector, vector, order)
