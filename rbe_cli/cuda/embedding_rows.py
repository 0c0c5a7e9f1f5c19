"""Unpack single columns of a matrix in panels in a kernel: rows of an embedding."""

from functools import cache
from typing import Any

from numba import cuda, float32, int32, uint32

from rbe_cli.cuda.kernel import Kernel, kernel
from rbe_cli.cuda.one_token_product import PANEL_ARGUMENTS
from rbe_cli.cuda.tile_form import TileForm
from rbe_cli.weights.panel_layout import PANEL_COLUMNS, TILE_ROWS

THREADS = 128
_PAIRS = 4  # of quads, in a tile


@cache
def embedding_kernel(form: TileForm) -> Kernel:
    """Return the kernel of a form of tiles; it takes a block for each index.

    With `adds`, it adds levels to what `overflow_products.write_overflow_rows` has written to
    the output, before they are multiplied by the steps.
    """
    quad_pair, tile_number = form.quad_pair, form.tile_number

    def unpack_columns(
        values: Any, entries: Any, starts: Any, taps: Any, tiles: Any, panels: Any, places: Any,
        indices: Any, row_steps: Any, steps: Any, adds: Any, out: Any,
    ) -> None:  # fmt: skip
        index = cuda.blockIdx.x
        place = places[indices[index]]
        panel, column = place // PANEL_COLUMNS, place % PANEL_COLUMNS
        for work in range(cuda.threadIdx.x, _PAIRS * tiles, cuda.blockDim.x):
            slot, pair = work // _PAIRS, work % _PAIRS
            first, second = quad_pair(
                values, entries, starts, taps, tiles, panel, slot, column, pair
            )
            row = TILE_ROWS * tile_number(entries, tiles, panel, slot) + 8 * pair
            for part in range(8):
                if row + part < out.shape[1]:
                    word = first if part < 4 else second
                    byte = int32(uint32(word >> uint32(8 * (part & 3))) & uint32(255))
                    level = float32((byte ^ 128) - 128)
                    if adds:
                        level = float32(level + out[index, row + part])
                    scaled = float32(level * row_steps[row + part])
                    out[index, row + part] = float32(scaled * steps[place])

    unpack_columns.__name__ = f"unpack_columns_{form.name}"
    signature = (
        f"void({PANEL_ARGUMENTS}, int32[::1], int32[::1], float32[::1], float32[::1], "
        "int32, float32[:, ::1])"
    )
    return kernel(signature)(unpack_columns)
