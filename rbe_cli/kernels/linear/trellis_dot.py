"""Multiply a tile of a trellis's codes (trellis_layout.py), or unpack it.

The lowest two bits of the codes are derived first, for all 8 quads at once: the bits u of earlier
columns are those of the lanes before, and of the panel before in the first lanes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import types

from rbe_cli.kernels.linear.block_dot import write_centred
from rbe_cli.kernels.linear.quad_products import (
    elements,
    for_choice,
    products_of,
    shifted,
    tile_products,
)
from rbe_cli.runtime.simd import (
    I32,
    I64,
    INTS,
    LANES,
    constant,
    kernel_intrinsic,
    load,
    prefetch_line,
    store,
)
from rbe_cli.weights.panel_layout import QUADS, VECTOR_BYTES
from rbe_cli.weights.trellis_code import STATES, Taps, taps
from rbe_cli.weights.trellis_layout import FIELDS, WIDTHS, code_offset

_AHEAD_BYTES = 8192  # of what is prefetched (tile_dot.py)
_EVEN_QUADS = 0x55555555  # every other bit
Width = int


def _earlier(
    builder: ir.IRBuilder, before: ir.Value, plane: ir.Value, columns: tuple[int, ...]
) -> ir.Value:
    """Return the exclusive or of a plane's bits some columns earlier."""
    found = None
    for count in columns:
        lanes = ir.Constant(INTS, list(range(LANES - count, 2 * LANES - count)))
        moved = builder.shuffle_vector(before, plane, lanes)
        found = moved if found is None else builder.xor(found, moved)
    return found


def _lowest_bits(
    builder: ir.IRBuilder, code: Taps, plane: ir.Value, before: ir.Value
) -> list[ir.Value]:
    """Return two vectors of pairs of bits: the lowest of the codes of even and of odd quads.

    Bits 2j and 2j + 1 of the first are those of quad 2j, of the second those of quad 2j + 1.
    """
    of_z = _earlier(builder, before, plane, code.offset)
    of_q = builder.xor(plane, _earlier(builder, before, plane, code.parity))
    even, odd = constant(_EVEN_QUADS), constant(~_EVEN_QUADS)
    lower = builder.and_(of_z, even), builder.and_(builder.lshr(of_z, constant(1)), even)
    upper = builder.and_(builder.shl(of_q, constant(1)), odd), builder.and_(of_q, odd)
    return [builder.or_(low, high) for low, high in zip(lower, upper, strict=True)]


def _codes(
    builder: ir.IRBuilder, width: Width, pairs: list[ir.Value], tile: ir.Value, quad: int
) -> ir.Value:
    """Load a quad's codes, 64 bytes in 16 lanes, of what `_lowest_bits` gives."""
    result = builder.and_(shifted(builder, pairs[quad % 2], quad // 2 * 2), constant(0x03030303))
    for vector, bit, size, target in FIELDS[width][quad]:
        own = shifted(builder, load(builder, tile, INTS, VECTOR_BYTES * vector), bit - target)
        mask = ((2**size - 1) << target) * 0x01010101
        result = builder.or_(result, builder.and_(own, constant(mask)))
    return result


def _for_width(
    builder: ir.IRBuilder,
    trellis: ir.Value,
    width: ir.Value,
    planes: tuple[ir.Value, ir.Value],
    emit: Callable[[Width, list[ir.Value]], list[ir.Value]],
) -> list[ir.Value]:
    """Return what `emit` gives for a tile's width and the lowest bits of its codes.

    `trellis` is the place of its states in `STATES`, and `planes` are the addresses of the tile's
    plane and of the one before.
    """
    plane, before = (load(builder, address, INTS) for address in planes)
    codes = [taps(states) for states in STATES]
    pairs = for_choice(
        builder, trellis, codes, lambda code: _lowest_bits(builder, code, plane, before)
    )

    def of_width(width: Width) -> list[ir.Value]:
        own = pairs
        if width == 1:  # v = n + 2
            own = [builder.xor(pair, constant(~_EVEN_QUADS)) for pair in pairs]
        return emit(width, own)

    place = builder.sub(width, ir.Constant(I64, WIDTHS[0]))
    return for_choice(builder, place, WIDTHS, of_width)


@kernel_intrinsic
def add_trellis_tile(
    typing: Any, arithmetic: Any, trellis: Any, width: Any, plane: Any, before: Any, tile: Any,
    x: Any, sums: Any,
) -> Any:  # fmt: skip
    """Return sums plus the products of a tile's codes and of a token's quantised inputs.

    `plane`, `before`, `tile` and `x` are addresses: of the tile's bits u, of those of the panel
    before, of its vectors, and of the inputs. `trellis` is the place of its states in `STATES`.
    What lies some tiles on is fetched into the cache.
    """
    own = arithmetic.value

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, trellis, width, plane, before, tile, x, packed = values
        current = elements(builder, packed, sums.count)
        _prefetch(builder, plane, 1)

        def add(width: Width, pairs: list[ir.Value]) -> list[ir.Value]:
            _prefetch(builder, tile, width - 1)
            codes = partial(_codes, builder, width, pairs, tile)
            return tile_products(builder, own, current, codes, width + 1, x)

        found = _for_width(builder, trellis, width, (plane, before), add)
        return context.make_tuple(builder, sums, found)

    return sums(arithmetic, *[types.int64] * 6, sums), emit


@kernel_intrinsic
def unpack_trellis_tile(
    typing: Any, arithmetic: Any, trellis: Any, width: Any, plane: Any, before: Any, tile: Any,
    out: Any,
) -> Any:  # fmt: skip
    """Write a tile's 8 quads to `out` as `block_dot.unpack_tile` does.

    The other arguments are those of `add_trellis_tile`.
    """
    return _unpacking(arithmetic, write_centred, VECTOR_BYTES)


@kernel_intrinsic
def prepare_trellis_tile(
    typing: Any, arithmetic: Any, trellis: Any, width: Any, plane: Any, before: Any, tile: Any,
    out: Any,
) -> Any:  # fmt: skip
    """Write a tile's 8 quads to `out` as `block_dot.add_quad` takes them."""
    products = products_of(arithmetic.value)
    return _unpacking(arithmetic, products.unpack, products.unpacked_bytes)


def _unpacking(arithmetic: Any, write: Callable[..., None], quad_stride: int) -> Any:
    """Return a function that unpacks a tile, with its signature."""

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        _, trellis, width, plane, before, tile, out = values

        def unpack(width: Width, pairs: list[ir.Value]) -> list[ir.Value]:
            for quad in range(QUADS):
                codes = _codes(builder, width, pairs, tile, quad)
                place = builder.add(out, ir.Constant(I64, quad_stride * quad))
                write(builder, codes, code_offset(width), place)
            return []

        _for_width(builder, trellis, width, (plane, before), unpack)
        return context.get_dummy_value()

    return types.void(arithmetic, *[types.int64] * 6), emit


@kernel_intrinsic
def scatter_lanes(typing: Any, lanes: Any, out: Any, accumulate: Any, vector: Any) -> Any:
    """Write 16 floats to the columns of a panel's lanes (address of int32 `[16]`), or add them.

    Lane 0 is written last: its column may stand in for those that are padding.
    """

    def emit(context: Any, builder: ir.IRBuilder, _: Any, values: Any) -> ir.Value:
        lanes, out, accumulate, vector = values
        places = []
        for lane in range(LANES):
            column = builder.sext(load(builder, lanes, I32, 4 * lane), I64)
            places.append(builder.add(out, builder.shl(column, ir.Constant(I64, 2))))
        is_added = builder.icmp_signed("!=", accumulate, ir.Constant(I64, 0))
        with builder.if_else(is_added) as (then, otherwise):
            with then:
                before = vector.type(ir.Undefined)
                for lane, place in enumerate(places):
                    value = load(builder, place, vector.type.element)
                    before = builder.insert_element(before, value, ir.Constant(I32, lane))
                _scatter(builder, places, builder.fadd(vector, before))
            with otherwise:
                _scatter(builder, places, vector)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, vector), emit


def _scatter(builder: ir.IRBuilder, places: list[ir.Value], vector: ir.Value) -> None:
    for lane in reversed(range(LANES)):
        store(builder, places[lane], builder.extract_element(vector, ir.Constant(I32, lane)))


def _prefetch(builder: ir.IRBuilder, address: ir.Value, vectors: int) -> None:
    for vector in range(vectors):
        prefetch_line(
            builder, builder.add(address, ir.Constant(I64, _AHEAD_BYTES + VECTOR_BYTES * vector))
        )
