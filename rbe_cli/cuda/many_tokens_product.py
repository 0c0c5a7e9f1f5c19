"""Multiply many tokens by a matrix in panels with tensor cores, exactly as for one token.

A tile of 32 rows x 16 columns is what `mma.m16n8k32` multiplies by 8 tokens, and a word of a tile
(four rows of a column) is one of the instruction's registers. A warp unpacks a tile's words into
registers, and multiplies the high and the low bytes of up to 64 tokens by them. The inputs of a
group of 8 tiles lie in shared memory, for all warps of a block.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32, int32, uint32

from rbe_cli.cuda.inline_ptx import fused, multiply_tile
from rbe_cli.cuda.kernel import WARP, Kernel, kernel
from rbe_cli.cuda.one_token_product import INPUT_ARGUMENTS, PANEL_ARGUMENTS
from rbe_cli.cuda.product_output import OUTPUT_ARGUMENTS, finish
from rbe_cli.cuda.tile_form import TileForm
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, QUADS
from rbe_cli.weights.trellis_layout import GROUP_TILES

BLOCK_TOKENS = 64
BLOCK_PANELS = 4  # a warp each
_EIGHTS = BLOCK_TOKENS // 8
_GROUP_WORDS = QUADS * GROUP_TILES
_STRIDE = _GROUP_WORDS + 8  # so that the words of 8 tokens lie in different banks
_STAGED = BLOCK_TOKENS * _STRIDE
_ZERO = np.float32(0)


@cuda.jit(device=True)
def _stage(inputs: Any, first: Any, count: Any, stride: Any, words: Any, staged: Any) -> None:
    """Copy a group's words of tokens to shared memory, with zeros to a multiple of 8 tokens."""
    for place in range(cuda.threadIdx.x, (count + 7) // 8 * 8 * _GROUP_WORDS, cuda.blockDim.x):
        token, word = place // _GROUP_WORDS, place % _GROUP_WORDS
        value = uint32(0)
        if token < count and word < words:
            value = inputs[first + stride * token + word]
        staged[_STRIDE * token + word] = value


@cuda.jit(device=True)
def _add_products(
    a0: Any, a1: Any, a2: Any, a3: Any, staged: Any, place: Any, sums: Any, eight: Any
) -> None:
    """Add a tile times 8 tokens, whose words of the thread are at `place`, to sums."""
    found = multiply_tile(
        a0, a1, a2, a3, staged[place], staged[place + 1],
        sums[eight, 0], sums[eight, 1], sums[eight, 2], sums[eight, 3],
    )  # fmt: skip
    sums[eight, 0], sums[eight, 1] = found[0], found[1]
    sums[eight, 2], sums[eight, 3] = found[2], found[3]


@cuda.jit(device=True)
def _add_group(totals: Any, of_high: Any, of_low: Any, scales: Any, step: Any) -> None:
    """Add a group's sums times the tokens' scales to totals, and set them to zero."""
    for eight in range(_EIGHTS):
        for place in range(4):
            exact = int32(256 * of_high[eight, place] + of_low[eight, place])
            scale = scales[8 * eight + 2 * step + (place & 1)]
            totals[eight, place] = fused(float32(exact), scale, totals[eight, place])
            of_high[eight, place] = of_low[eight, place] = int32(0)


@cache
def many_tokens_kernel(form: TileForm) -> Kernel:
    """Return the kernel of a form of tiles.

    Its blocks take 4 panels and 64 tokens each, those of the same panels after each other, and as
    many warps as panels, at most 4.
    """
    quad_pair, tile_number = form.quad_pair, form.tile_number

    def multiply_tokens(
        values: Any, entries: Any, starts: Any, taps: Any, tiles: Any, panels: Any, high: Any,
        low: Any, scales: Any, lanes: Any, steps: Any, bias: Any, overflow: Any, added: Any,
        out: Any, activation: Any, flags: Any,
    ) -> None:  # fmt: skip
        thread, warps = cuda.threadIdx.x, cuda.blockDim.x // WARP
        token_blocks = (out.shape[0] + BLOCK_TOKENS - 1) // BLOCK_TOKENS
        first = BLOCK_TOKENS * (cuda.blockIdx.x % token_blocks)
        count = min(BLOCK_TOKENS, out.shape[0] - first)
        own_panel = cuda.blockIdx.x // token_blocks * warps + thread // WARP
        panel = min(own_panel, panels - 1)  # all warps take part in copies
        row, step = thread % WARP // 4, thread % 4
        groups, stride = (tiles + GROUP_TILES - 1) // GROUP_TILES, QUADS * tiles
        staged_high = cuda.shared.array(_STAGED, uint32)
        staged_low = cuda.shared.array(_STAGED, uint32)
        staged_scales = cuda.shared.array(BLOCK_TOKENS, float32)
        totals = cuda.local.array((_EIGHTS, 4), float32)
        of_high = cuda.local.array((_EIGHTS, 4), int32)
        of_low = cuda.local.array((_EIGHTS, 4), int32)
        for eight in range(_EIGHTS):
            for place in range(4):
                totals[eight, place] = _ZERO
                of_high[eight, place] = of_low[eight, place] = int32(0)
        for group in range(groups):
            cuda.syncthreads()
            place = stride * first + _GROUP_WORDS * group
            words = stride - _GROUP_WORDS * group
            _stage(high, place, count, stride, words, staged_high)
            _stage(low, place, count, stride, words, staged_low)
            for token in range(thread, BLOCK_TOKENS, cuda.blockDim.x):
                scale = _ZERO
                if token < count:
                    scale = scales[groups * (first + token) + group]
                staged_scales[token] = scale
            cuda.syncthreads()
            for slot in range(GROUP_TILES * group, min(GROUP_TILES * (group + 1), tiles)):
                a0, a2 = quad_pair(values, entries, starts, taps, tiles, panel, slot, row, step)
                a1, a3 = quad_pair(values, entries, starts, taps, tiles, panel, slot, row + 8, step)
                tile = tile_number(entries, tiles, panel, slot) - GROUP_TILES * group
                own = _STRIDE * row + QUADS * tile + 2 * step
                for eight in range(_EIGHTS):
                    if 8 * eight < count:
                        place = 8 * _STRIDE * eight + own
                        _add_products(a0, a1, a2, a3, staged_high, place, of_high, eight)
                        _add_products(a0, a1, a2, a3, staged_low, place, of_low, eight)
            _add_group(totals, of_high, of_low, staged_scales, step)
        if own_panel >= panels:
            return
        for eight in range(_EIGHTS):
            for place in range(4):
                token = 8 * eight + 2 * step + (place & 1)
                if token < count:
                    lane = PANEL_COLUMNS * panel + row + 8 * (place >> 1)
                    finish(
                        totals[eight, place], first + token, lane, lanes, steps, bias, overflow,
                        added, out, activation, flags,
                    )  # fmt: skip

    multiply_tokens.__name__ = f"multiply_tokens_{form.name}"
    signature = f"void({PANEL_ARGUMENTS}, {INPUT_ARGUMENTS}, {OUTPUT_ARGUMENTS})"
    return kernel(signature)(multiply_tokens)


def block_count(tokens: int, panels: int) -> int:
    """Return the number of blocks."""
    return -(-tokens // BLOCK_TOKENS) * -(-panels // min(panels, BLOCK_PANELS))
