"""Unpack tiles of one layout in kernels (weights/panel_layout.py): of 2, 4 and 8 bits.

Codes become signed bytes, four rows of a column in a word, which stand for levels / `unit`.
"""

from typing import Any

from numba import cuda, int32, uint32

from rbe_cli.cuda.inline_ptx import add_products
from rbe_cli.cuda.tile_form import TileForm

_SIGNS, _ONES = 0x80808080, 0x01010101


@cuda.jit(device=True)
def _int8_word(values: Any, place: Any, quad: Any) -> Any:
    """Return code - 128."""
    return uint32(values[place + 16 * quad] ^ uint32(_SIGNS))


@cuda.jit(device=True)
def _even2_word(values: Any, place: Any, quad: Any) -> Any:
    """Return 2 code - 3."""
    codes = uint32(values[place + 16 * (quad >> 2)] >> uint32(2 * (quad & 3)))
    codes = uint32(codes & uint32(3 * _ONES))
    return uint32(uint32(uint32(codes << uint32(1)) + uint32(125 * _ONES)) ^ uint32(_SIGNS))


@cuda.jit(device=True)
def _bent4_word(values: Any, place: Any, quad: Any) -> Any:
    """Return 8 level: 8 code - 60, with another 5 at either end but one, and 15 at either end."""
    codes = uint32(values[place + 16 * (quad >> 1)] >> uint32(4 * (quad & 1)))
    codes = uint32(codes & uint32(15 * _ONES))
    others = uint32(codes ^ uint32(15 * _ONES))
    top = uint32(uint32(codes >> uint32(1)) & uint32(codes >> uint32(2)))
    top = uint32(uint32(top & uint32(codes >> uint32(3))) & uint32(_ONES))
    low = uint32(uint32(others >> uint32(1)) & uint32(others >> uint32(2)))
    low = uint32(uint32(low & uint32(others >> uint32(3))) & uint32(_ONES))
    more = uint32(uint32(5) * uint32(top + uint32(2) * uint32(top & codes)))
    less = uint32(uint32(5) * uint32(low + uint32(2) * uint32(low & others)))
    even = uint32(uint32(codes << uint32(3)) + uint32(68 * _ONES))
    return uint32(uint32(uint32(even + more) - less) ^ uint32(_SIGNS))


@cuda.jit(device=True)
def _tile_number(entries: Any, tiles: Any, panel: Any, slot: Any) -> Any:
    return slot


def _form(layout: str, bits: int, word: Any) -> TileForm:
    """Return the form of tiles of that many bits, of which `word` unpacks a quad."""

    @cuda.jit(device=True)
    def tile_sum(
        values: Any, entries: Any, starts: Any, taps: Any, tiles: Any, panel: Any, slot: Any,
        column: Any, high: Any, low: Any, place: Any,
    ) -> Any:  # fmt: skip
        own = (panel * tiles + slot) * (16 * bits) + column
        inputs = place + 8 * slot
        of_high, of_low = int32(0), int32(0)
        for quad in range(8):
            levels = word(values, own, quad)
            of_high = add_products(levels, high[inputs + quad], of_high)
            of_low = add_products(levels, low[inputs + quad], of_low)
        return int32(256 * of_high + of_low)

    @cuda.jit(device=True)
    def quad_pair(
        values: Any, entries: Any, starts: Any, taps: Any, tiles: Any, panel: Any, slot: Any,
        column: Any, pair: Any,
    ) -> Any:  # fmt: skip
        own = (panel * tiles + slot) * (16 * bits) + column
        return word(values, own, 2 * pair), word(values, own, 2 * pair + 1)

    return TileForm(layout, tile_sum, quad_pair, _tile_number)


UNIFORM_FORMS = {
    form.name: form
    for form in (
        _form("even2", 2, _even2_word),
        _form("bent4", 4, _bent4_word),
        _form("int8", 8, _int8_word),
    )
}
"""The forms by the names of their layouts."""
