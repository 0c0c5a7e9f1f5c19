"""Multiply many tokens by a matrix with instructions for matrices (matrix_products.py)."""

from typing import Any

from rbe_cli.kernels.kernel_records import GROUP_ROWS
from rbe_cli.kernels.linear.matrix_products import Group, multiply_group
from rbe_cli.kernels.linear.matrix_registers import (
    WITH_MATRICES,
    configure_registers,
    release_registers,
)
from rbe_cli.kernels.linear.operands import finish
from rbe_cli.kernels.linear.products import first_tile, prepare_group, words_of_token
from rbe_cli.kernels.linear.quad_products import quads_at
from rbe_cli.kernels.linear.trellis_sums import add_overflow
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import load_floats
from rbe_cli.weights.matrix_record import TRELLIS
from rbe_cli.weights.panel_layout import TILE_ROWS, VECTOR_BYTES

_GROUP_TILES = GROUP_ROWS // TILE_ROWS
_UNPACKED_TILE = 8 * VECTOR_BYTES  # bytes


@program_code
def _unpack_panel(arithmetic: Any, matrix: Any, panel: int, out: int) -> None:
    """Write a panel's codes as signed bytes, a vector for each quad."""
    values = first_tile(matrix, panel)
    for start in range(0, matrix.tiles, _GROUP_TILES):
        stop, place = min(start + _GROUP_TILES, matrix.tiles), out + _UNPACKED_TILE * start
        values = prepare_group(arithmetic, matrix, panel, start, stop, values, place)


@program_code
def _matrix_block(
    arithmetic: Any, matrix: Any, operands: Any, panel: int, count: int, first: int, last: int
) -> None:
    """Multiply tokens `first` to `last` by `count` unpacked panels, group after group."""
    tiles, panel_bytes, stride = matrix.tiles, _UNPACKED_TILE * matrix.tiles, operands.stride
    totals = operands.scratch + WITH_MATRICES.panels * panel_bytes
    inputs = operands.quantised_inputs + first * stride
    words = words_of_token(inputs, tiles)
    for group in range((tiles + _GROUP_TILES - 1) // _GROUP_TILES):
        start = group * _GROUP_TILES
        own = Group(
            min(_GROUP_TILES, tiles - start), inputs + 8 * group,
            quads_at(arithmetic, words, GROUP_ROWS * group), stride,
            operands.scratch + _UNPACKED_TILE * start, panel_bytes, totals, group == 0,
        )  # fmt: skip
        multiply_group(arithmetic, own, last - first, count)
    for token in range(first, last):
        x = operands.quantised_inputs + token * stride
        place = totals + VECTOR_BYTES * WITH_MATRICES.panels * (token - first)
        for own_panel in range(panel, panel + count):
            total = load_floats(place + VECTOR_BYTES * (own_panel - panel))
            if matrix.form == TRELLIS:
                words = words_of_token(x, tiles)
                total = add_overflow(arithmetic, matrix, own_panel, x, words, total)
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
