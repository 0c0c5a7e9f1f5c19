"""Multiply one token by a matrix in panels; memory is read once, and nothing is unpacked into it.

A block computes a panel, 16 outputs. Sixteen threads take a tile: they read its words in whole
lines, unpack them in registers, and multiply bytes four at a time. A group's products are summed
as integers, in any order, and groups in theirs: results are the CPU's.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32, int32

from rbe_cli.cuda.inline_ptx import fused
from rbe_cli.cuda.kernel import MOST_THREADS, Kernel, kernel
from rbe_cli.cuda.product_output import OUTPUT_ARGUMENTS, finish
from rbe_cli.cuda.tile_form import TileForm
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, QUADS
from rbe_cli.weights.trellis_layout import GROUP_TILES

PANEL_ARGUMENTS = "uint32[::1], int32[::1], int32[:, ::1], int32[::1], int32, int32"
"""The types of values, entries, starts, taps, tiles and panels."""
INPUT_ARGUMENTS = "uint32[::1], uint32[::1], float32[::1]"
"""The types of high, low and scales (`RoundedInputs`)."""
_RESIDENT_THREADS = 1 << 18  # of a large GPU
_ZERO = np.float32(0)


@cache
def one_token_kernel(form: TileForm) -> Kernel:
    """Return the kernel of a form of tiles.

    Its blocks are panels, token after token; it takes `block_threads` threads, and shared memory
    for an int32 for each group of tiles and column.
    """
    tile_sum = form.tile_sum

    def multiply_token(
        values: Any, entries: Any, starts: Any, taps: Any, tiles: Any, panels: Any, high: Any,
        low: Any, scales: Any, lanes: Any, steps: Any, bias: Any, overflow: Any, added: Any,
        out: Any, activation: Any, flags: Any,
    ) -> None:  # fmt: skip
        panel, token = cuda.blockIdx.x % panels, cuda.blockIdx.x // panels
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        groups = (tiles + GROUP_TILES - 1) // GROUP_TILES
        sums = cuda.shared.array(0, int32)
        for place in range(thread, PANEL_COLUMNS * groups, threads):
            sums[place] = int32(0)
        cuda.syncthreads()
        column = thread % PANEL_COLUMNS
        inputs = QUADS * tiles * token
        for slot in range(thread // PANEL_COLUMNS, tiles, threads // PANEL_COLUMNS):
            found = tile_sum(
                values, entries, starts, taps, tiles, panel, slot, column, high, low, inputs
            )
            cuda.atomic.add(sums, PANEL_COLUMNS * (slot // GROUP_TILES) + column, found)
        cuda.syncthreads()
        if thread < PANEL_COLUMNS:
            total = _ZERO
            for group in range(groups):
                exact = float32(sums[PANEL_COLUMNS * group + thread])
                total = fused(exact, scales[groups * token + group], total)
            place = PANEL_COLUMNS * panel + thread
            finish(total, token, place, lanes, steps, bias, overflow, added, out, activation, flags)

    multiply_token.__name__ = f"multiply_token_{form.name}"
    signature = f"void({PANEL_ARGUMENTS}, {INPUT_ARGUMENTS}, {OUTPUT_ARGUMENTS})"
    return kernel(signature, most_threads=MOST_THREADS)(multiply_token)


def block_threads(tiles: int, panels: int) -> int:
    """Return the threads of a block: 16 a tile, but not more than the GPU holds of all panels."""
    wanted = max(GROUP_TILES, _RESIDENT_THREADS // panels // PANEL_COLUMNS)
    halves = min(tiles, wanted, MOST_THREADS // PANEL_COLUMNS)
    return PANEL_COLUMNS * halves


def shared_bytes(tiles: int) -> int:
    """Return the bytes of shared memory that a block needs."""
    return 4 * PANEL_COLUMNS * -(-tiles // GROUP_TILES)
