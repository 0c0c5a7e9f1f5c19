"""Emit products by dot products of four unsigned and four signed bytes (`vpdpbusd`).

A quantised input is one signed byte of 8 bits, or of 16 bits two: q = 256 * high + low. For
every 64 rows, 64 bytes `high` are followed by 64 bytes `low`. Each kind of byte ("half") has sums
of its own.
"""

from collections.abc import Callable

from llvmlite import ir

from rbe_cli.runtime.simd import (
    I8,
    I32,
    I64,
    by_registers,
    call,
    constant,
    load,
    splat,
    store,
)
from rbe_cli.weights.panel_layout import QUADS, VECTOR_BYTES

HALF_BYTES = 64  # of high bytes, after which low ones follow
_OFFSET = 128  # of unpacked bytes


class VnniProducts:
    """Multiply with registers of 8 or 16 lanes; attributes as of `quad_products.Products`."""

    input_stride = 4
    unpacked_bytes = VECTOR_BYTES
    unpacked_parts = 1

    def __init__(self, lanes: int, int8: bool) -> None:
        self._lanes = lanes
        self._halves = 1 if int8 else 2
        # Additions take four or five cycles, and two begin in each.
        self._chains = lanes // 4
        self.sum_count = self._chains * self._halves
        self.block_sum_count = self._halves
        self.block_sums = 24 if lanes == 16 else 6
        self.block_tokens = 6 if lanes == 16 or int8 else 3

    def inputs_at(self, builder: ir.IRBuilder, words: ir.Value, row: ir.Value) -> ir.Value:
        """Return where the inputs of rows from `row` on lie."""
        place = builder.add(words, row)
        if self._halves == 1:
            return place
        return builder.add(place, builder.and_(row, ir.Constant(I64, -HALF_BYTES)))

    def store_inputs(self, builder: ir.IRBuilder, address: ir.Value, q: ir.Value) -> None:
        """Write 16 quantised inputs (ints)."""
        parts = [q]
        if self._halves == 2:
            high = builder.ashr(builder.add(q, constant(128)), constant(8))
            parts = [high, builder.sub(q, builder.shl(high, constant(8)))]
        for half, part in enumerate(parts):
            place = builder.add(address, ir.Constant(I64, HALF_BYTES * half))
            store(builder, place, builder.trunc(part, ir.VectorType(I8, 16)))

    def add_tile(
        self,
        builder: ir.IRBuilder,
        sums: list[ir.Value],
        quad_bytes: Callable[[int], ir.Value],
        bits: int,
        x: ir.Value,
    ) -> list[ir.Value]:
        """Return sums plus a tile's products."""
        current = list(sums)
        for quad in range(QUADS):
            first = self._halves * (quad % self._chains)
            chain = slice(first, first + self._halves)
            place = builder.add(x, ir.Constant(I64, 4 * quad))
            current[chain] = self.add_part(builder, current[chain], quad_bytes(quad), 0, place)
        return current

    def total(self, builder: ir.IRBuilder, sums: list[ir.Value]) -> ir.Value:
        """Return the sum of products from the sums of all chains and halves."""
        merged = sums[: self._halves]
        for i, value in enumerate(sums[self._halves :]):
            half = i % self._halves
            merged[half] = builder.add(merged[half], value)
        if self._halves == 1:
            return merged[0]
        return builder.add(builder.shl(merged[0], constant(8)), merged[1])

    def unpack(self, builder: ir.IRBuilder, codes: ir.Value, offset: int, out: ir.Value) -> None:
        """Write a quad's bytes of one offset, with the same for all."""
        shift = constant((_OFFSET - offset) * 0x01010101)  # no byte overflows
        store(builder, out, builder.add(codes, shift))

    def start(self, builder: ir.IRBuilder, group_sum: ir.Value) -> list[ir.Value]:
        """Return sums that make up for the unpacked bytes' offset."""
        correction = builder.mul(group_sum, ir.Constant(I32, -_OFFSET))
        return [*[constant(0)] * (self._halves - 1), splat(builder, correction)]

    def add_part(
        self, builder: ir.IRBuilder, sums: list[ir.Value], codes: ir.Value, part: int, x: ir.Value
    ) -> list[ir.Value]:
        """Return each half's sums plus a quad's products."""
        lanes, current = self._lanes, []
        for half, own in enumerate(sums):
            factor = splat(builder, load(builder, x, I32, HALF_BYTES * half), lanes)
            current.append(self._dot(builder, own, codes, factor))
        return current

    def _dot(
        self, builder: ir.IRBuilder, sums: ir.Value, codes: ir.Value, factor: ir.Value
    ) -> ir.Value:
        """Return sums plus the products of a quad and a register of its inputs, all the same."""

        def multiply(own: ir.Value, codes: ir.Value) -> ir.Value:
            return self._multiply(builder, own, codes, factor)

        return by_registers(builder, self._lanes, multiply, sums, codes)

    def _multiply(
        self, builder: ir.IRBuilder, sums: ir.Value, codes: ir.Value, factor: ir.Value
    ) -> ir.Value:
        """Return a register of sums plus dot products."""
        kind = ir.VectorType(I8, 4 * self._lanes)
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self._lanes}"
        codes, factor = builder.bitcast(codes, kind), builder.bitcast(factor, kind)
        return call(builder, name, sums.type, sums, codes, factor)


class SignedProducts(VnniProducts):
    """Unpack for instructions for matrices (matrix_registers.py), which take signed bytes."""

    def unpack(self, builder: ir.IRBuilder, codes: ir.Value, offset: int, out: ir.Value) -> None:
        """Write a quad's bytes without their offset."""
        shifted = builder.add(codes, constant((_OFFSET - offset) * 0x01010101))
        store(builder, out, builder.xor(shifted, constant(_OFFSET * 0x01010101)))
