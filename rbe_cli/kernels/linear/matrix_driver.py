"""Multiply many tokens by a matrix with instructions for matrices (matrix_products.py)."""

from typing import Any

from rbe_cli.kernels.kernel_records import GROUP_ROWS
from rbe_cli.kernels.linear.block_dot import unpack_signed_tile
from rbe_cli.kernels.linear.matrix_products import Group, is_whole, multiply_group
from rbe_cli.kernels.linear.matrix_registers import (
    WITH_MATRICES,
    configure_registers,
    release_registers,
)
from rbe_cli.kernels.linear.operands import finish
from rbe_cli.kernels.linear.products import add_overflow, words_of_token
from rbe_cli.kernels.linear.quad_products import quads_at
from rbe_cli.kernels.linear.tile_dot import layout_bytes
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import load_byte, load_floats, load_int
from rbe_cli.weights.panel_layout import TILE_ROWS, VECTOR_BYTES

_GROUP_TILES = GROUP_ROWS // TILE_ROWS
_UNPACKED_TILE = 8 * VECTOR_BYTES


@program_code
def _unpack_panel(arithmetic: Any, matrix: Any, panel: int, out: int) -> None:
    """Write a panel's codes as signed bytes, a vector for each quad."""
    values = matrix.values + load_int(matrix.starts + 8 * panel)
    for tile in range(matrix.tiles):
        layout = load_byte(matrix.layouts + panel * matrix.tiles + tile)
        unpack_signed_tile(arithmetic, layout, values, out + _UNPACKED_TILE * tile)
        values += layout_bytes(layout)


@program_code
def _has_overflow(matrix: Any, panel: int, count: int) -> Any:
    """Return whether some of `count` panels have tiles of multiples of 256."""
    starts = matrix.overflow_starts + 8 * panel
    return matrix.layout < 0 and load_int(starts) != load_int(starts + 8 * count)


@program_code
def _matrix_block(
    arithmetic: Any, matrix: Any, operands: Any, panel: int, count: int, first: int, last: int
) -> None:
    """Multiply tokens `first` to `last` by `count` unpacked panels, group after group."""
    tiles, panel_bytes, stride = matrix.tiles, _UNPACKED_TILE * matrix.tiles, operands.stride
    totals = operands.scratch + WITH_MATRICES.panels * panel_bytes
    groups, tokens = (tiles + _GROUP_TILES - 1) // _GROUP_TILES, last - first
    inputs, column = operands.quantised_inputs + first * stride, panel * VECTOR_BYTES
    words = words_of_token(inputs, tiles)
    finishes = is_whole(tokens, count) and not _has_overflow(matrix, panel, count)
    for group in range(groups):
        start = group * _GROUP_TILES
        own = Group(
            min(_GROUP_TILES, tiles - start), inputs + 8 * group,
            quads_at(arithmetic, words, GROUP_ROWS * group), stride,
            operands.scratch + _UNPACKED_TILE * start, panel_bytes, totals, group == 0,
            finishes and group == groups - 1, matrix.column_steps + column, matrix.bias + column,
            operands.out + first * operands.out_stride + column, operands.out_stride,
            operands.accumulate,
        )  # fmt: skip
        multiply_group(arithmetic, own, tokens, count)
    if not finishes:
        for token in range(first, last):
            x = operands.quantised_inputs + token * stride
            place = totals + VECTOR_BYTES * WITH_MATRICES.panels * (token - first)
            for own_panel in range(panel, panel + count):
                total = load_floats(place + VECTOR_BYTES * (own_panel - panel))
                if matrix.layout < 0:
                    total = add_overflow(arithmetic, matrix, own_panel, x, total)
                finish(matrix, own_panel, total, operands, token)


@program_code
def many_tokens_by_matrices(
    arithmetic: Any, matrix: Any, operands: Any, first: int, last: int
) -> None:
    """Multiply all tokens by some panels, then by the next: unpacked, they serve all tokens.

    Tokens go through them in blocks whose totals (float32 `[tokens, panels, 16]`) stay in the L1
    cache.
    """
    configure_registers(operands.tokens)
    panels, tokens = WITH_MATRICES.panels, WITH_MATRICES.tokens
    panel_bytes = _UNPACKED_TILE * matrix.tiles
    for panel in range(first, last, panels):
        count = min(panels, last - panel)
        for own in range(count):
            _unpack_panel(arithmetic, matrix, panel + own, operands.scratch + panel_bytes * own)
        for token in range(0, operands.tokens, tokens):
            end = min(token + tokens, operands.tokens)
            _matrix_block(arithmetic, matrix, operands, panel, count, token, end)
    release_registers()
