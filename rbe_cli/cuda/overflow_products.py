"""Add what integers past 8 bits have more than a tile holds (weights/trellis_panels.py).

Such a tile has a second one of n >> 8, in planes (weights/panel_layout.py). They are rare, so they
have kernels of their own. Their tiles are described by rows of int32: the tile of its panel, its
bits, and its first vector; `firsts` tells each panel's first row, and the end.
"""

from typing import Any

import numpy as np
from numba import cuda, float32, int32, uint32

from rbe_cli.cuda.inline_ptx import add_products, fused
from rbe_cli.cuda.kernel import kernel
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, QUADS, TILE_ROWS
from rbe_cli.weights.trellis_layout import GROUP_TILES

OVERFLOW_TOKENS = 8
"""Tokens of a block of `overflow_sums`, with 16 threads each."""
_SIGNS, _ONES = 0x80808080, 0x01010101
_ZERO = np.float32(0)


@cuda.jit(device=True)
def _tops(values: Any, place: Any, bits: Any, quad: Any) -> Any:
    """Return n >> 8 of a quad as signed bytes; the words of a column begin at `place`."""
    codes, shift, vector = uint32(0), 0, 0
    width = 8
    while width > 0:
        if bits & width:
            word = values[place + 16 * (vector + quad * width // 8)]
            mask = uint32(((1 << width) - 1) * _ONES)
            own = uint32(uint32(word >> uint32(width * quad % 8)) & mask)
            codes = uint32(codes | uint32(own << uint32(shift)))
            shift, vector = shift + width, vector + width
        width >>= 1
    return uint32(uint32(codes + uint32((128 - (1 << (bits - 1))) * _ONES)) ^ uint32(_SIGNS))


@kernel(
    "void(uint32[::1], int32[:, ::1], int32[::1], int32, uint32[::1], uint32[::1], "
    "float32[::1], int32, float32[::1])"
)
def overflow_sums(
    values: Any, rows: Any, firsts: Any, tiles: Any, high: Any, low: Any, scales: Any,
    tokens: Any, out: Any,
) -> None:  # fmt: skip
    """Set out `[tokens, panels * 16]` to the products of (n >> 8) + 1/2, doubled.

    A block takes a panel and 8 tokens, token after token of the same panel.
    """
    panels, token_blocks = firsts.shape[0] - 1, (tokens + OVERFLOW_TOKENS - 1) // OVERFLOW_TOKENS
    panel, column = cuda.blockIdx.x // token_blocks, cuda.threadIdx.x % PANEL_COLUMNS
    token = OVERFLOW_TOKENS * (cuda.blockIdx.x % token_blocks) + cuda.threadIdx.x // PANEL_COLUMNS
    if token >= tokens:
        return
    groups = (tiles + GROUP_TILES - 1) // GROUP_TILES
    total = _ZERO
    for number in range(firsts[panel], firsts[panel + 1]):
        tile, bits, place = rows[number, 0], rows[number, 1], 16 * rows[number, 2] + column
        inputs = QUADS * (tiles * token + tile)
        of_high, of_low, all_high, all_low = int32(0), int32(0), int32(0), int32(0)
        for quad in range(QUADS):
            tops = _tops(values, place, bits, quad)
            of_high = add_products(tops, high[inputs + quad], of_high)
            of_low = add_products(tops, low[inputs + quad], of_low)
            all_high = add_products(uint32(_ONES), high[inputs + quad], all_high)
            all_low = add_products(uint32(_ONES), low[inputs + quad], all_low)
        exact = int32(2 * (256 * of_high + of_low) + 256 * all_high + all_low)
        total = fused(float32(exact), scales[groups * token + tile // GROUP_TILES], total)
    out[PANEL_COLUMNS * (panels * token + panel) + column] = total


@kernel("void(uint32[::1], int32[:, ::1], int32[::1], int32[::1], int32[::1], float32[:, ::1])")
def write_overflow_rows(
    values: Any, rows: Any, firsts: Any, places: Any, indices: Any, out: Any
) -> None:
    """Set out `[n, K]` to 256 (n >> 8) + 128 of some columns, and to 0 in all other tiles.

    A block takes an index, and a thread a row of a tile.
    """
    place = places[indices[cuda.blockIdx.x]]
    panel, column, row = place // PANEL_COLUMNS, place % PANEL_COLUMNS, cuda.threadIdx.x
    for own in range(row, out.shape[1], TILE_ROWS):
        out[cuda.blockIdx.x, own] = _ZERO
    for number in range(firsts[panel], firsts[panel + 1]):
        own = TILE_ROWS * rows[number, 0] + row
        if own < out.shape[1]:
            tops = _tops(values, 16 * rows[number, 2] + column, rows[number, 1], row >> 2)
            top = ((int32(tops >> uint32(8 * (row & 3))) & 255) ^ 128) - 128
            out[cuda.blockIdx.x, own] = float32(256 * top + 128)
