"""out = x W + bias for a matrix in panels (`panel.py`).

Each panel is one piece of parallel work. Every output is a sum over k in ascending
order of fused multiply-adds in float32, times its step, whatever the number of tokens and
of threads. The steps of rows are multiplied into x beforehand.

With a few tokens the values are converted in registers on their way from memory. With
many, a tile of a panel is converted once into the L1 cache and serves a block of tokens.
Loops over a panel's columns take their length from the array: LLVM vectorises a length it
does not know, and unrolls one that it does. Codes become levels by arithmetic, as vector
code gathers from a table at a quarter of the speed.
"""

import numpy as np
from numba import prange

from rbe_cli.codec.panels import BEND, ROW_MULTIPLE, padded_rows
from rbe_cli.jit import jit
from rbe_cli.kernels.arrays import Float32, PanelValues
from rbe_cli.kernels.threads import Launcher

_FEW_TOKENS = 3  # up to here, reading a panel again for each token is faster
_TOKEN_GROUP = 4  # tokens that share a tile's row in registers
_BLOCK_TOKENS = 64
_TILE_ROWS = 64
_ZERO, _TWO, _FOUR, _SIX = np.int32(0), np.int32(2), np.int32(4), np.int32(6)
_3, _15 = np.int32(3), np.int32(15)
_BEND, _CENTRE, _ONE = np.float32(BEND), np.float32(7.5), np.float32(1)


def matmul(
    launch: Launcher,
    x: Float32,
    values: PanelValues,
    levels: Float32,
    row_steps: Float32,
    column_steps: Float32,
    bias: Float32,
    out: Float32,
) -> None:
    """A matrix `[K, N]` times tokens.

    Args:
        launch: starts the kernel.
        x: `[tokens, K]`.
        values, levels: panels; levels are evenly spaced by 1, or bent (codec/panels.py).
        row_steps: `[K]`.
        column_steps, bias: `[N]`.
        out: `[tokens, N]`.
    """
    tokens, rows = x.shape
    group = 1 if tokens <= _FEW_TOKENS else _TOKEN_GROUP
    padded = np.zeros((-(-tokens // group) * group, padded_rows(rows)), np.float32)
    np.multiply(x, row_steps, out=padded[:tokens, :rows])
    work = tokens * rows * out.shape[1]
    launch(_matmul, work, padded, values, levels, column_steps, bias, out)


@jit(parallel=True)
def _matmul(
    x: Float32,
    values: PanelValues,
    levels: Float32,
    column_steps: Float32,
    bias: Float32,
    out: Float32,
) -> None:
    for panel in prange(values.shape[0]):
        first = panel * values.shape[2]
        _multiply_panel(x, values[panel], levels, column_steps, bias, first, out)


@jit()
def _multiply_panel(
    x: Float32,
    panel: PanelValues,
    levels: Float32,
    column_steps: Float32,
    bias: Float32,
    first: int,
    out: Float32,
) -> None:
    """out[:, first : first + 64] = x panel column_steps + bias; x `[tokens', K']` is padded."""
    tokens, width = out.shape[0], panel.shape[1]
    columns = min(width, out.shape[1] - first)
    sums = np.empty((min(_BLOCK_TOKENS, x.shape[0]), width), np.float32)
    tile = np.empty((min(_TILE_ROWS, x.shape[1]), width), np.float32)
    for start in range(0, tokens, _BLOCK_TOKENS):
        block = x[start : start + _BLOCK_TOKENS]
        sums[:] = 0
        if tokens <= _FEW_TOKENS:
            for token in range(tokens):
                _add_token(x[token], panel, levels, sums[token])
        else:
            _add_block(block, panel, levels, tile, sums)
        for token in range(min(len(block), tokens - start)):
            for n in range(columns):
                step = column_steps[first + n]
                out[start + token, first + n] = sums[token, n] * step + bias[first + n]


@jit()
def _add_block(
    x: Float32, panel: PanelValues, levels: Float32, tile: Float32, sums: Float32
) -> None:
    """sums += x panel, for a multiple of 4 tokens."""
    for first in range(0, x.shape[1], tile.shape[0]):
        rows = min(tile.shape[0], x.shape[1] - first)
        if levels.size > 0:
            _convert_codes(panel, levels, first, tile[:rows])
        else:
            _convert(panel, first, tile[:rows])
        for token in range(0, x.shape[0], _TOKEN_GROUP):
            _add_tile(
                x[token : token + _TOKEN_GROUP, first : first + rows],
                tile,
                sums[token : token + _TOKEN_GROUP],
            )


@jit()
def _add_tile(x: Float32, tile: Float32, sums: Float32) -> None:
    """sums `[4, 64]` += x `[4, rows]` tile `[rows, 64]`, two rows at a time."""
    for k in range(0, x.shape[1], 2):
        a0, a1 = x[0, k], x[0, k + 1]
        b0, b1 = x[1, k], x[1, k + 1]
        c0, c1 = x[2, k], x[2, k + 1]
        d0, d1 = x[3, k], x[3, k + 1]
        for n in range(tile.shape[1]):
            w0, w1 = tile[k, n], tile[k + 1, n]
            sums[0, n] = sums[0, n] + a0 * w0 + a1 * w1
            sums[1, n] = sums[1, n] + b0 * w0 + b1 * w1
            sums[2, n] = sums[2, n] + c0 * w0 + c1 * w1
            sums[3, n] = sums[3, n] + d0 * w0 + d1 * w1


@jit()
def _convert(panel: PanelValues, first: int, tile: Float32) -> None:
    """tile `[rows, 64]` = the panel's rows from `first`, as float32."""
    for k in range(tile.shape[0]):
        for n in range(tile.shape[1]):
            tile[k, n] = panel[first + k, n]


@jit()
def _convert_codes(panel: PanelValues, levels: Float32, first: int, tile: Float32) -> None:
    """The same of codes, as levels."""
    bits = 2 if levels.size == 4 else 4
    mask = np.int32(levels.size - 1)
    slope, centre = levels[1] - levels[0], -levels[0]
    for k in range(tile.shape[0]):
        start = bits * (first + k)  # of the row's bits in a column
        source, row, shift = panel[start // 8], tile[k], np.int32(start % 8)
        if slope == 1:
            for n in range(row.shape[0]):
                row[n] = _even(_code(source[n], shift, mask), centre)
        else:
            for n in range(row.shape[0]):
                row[n] = _bent(_code(source[n], shift, mask), slope)


@jit()
def _add_token(x: Float32, panel: PanelValues, levels: Float32, sums: Float32) -> None:
    """sums `[64]` += x `[K']` panel."""
    if levels.size == 0:
        _add_integers(x, panel, sums)
    elif levels.size == 4:
        _add_2_code(x, panel, -levels[0], sums)
    elif levels[1] - levels[0] == 1:
        _add_4_code(x, panel, -levels[0], sums)
    else:
        _add_bent(x, panel, levels[1] - levels[0], sums)


@jit()
def _add_integers(x: Float32, panel: PanelValues, sums: Float32) -> None:
    """Eight rows at a time, as all of these."""
    for k in range(0, x.shape[0], ROW_MULTIPLE):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        x4, x5, x6, x7 = x[k + 4], x[k + 5], x[k + 6], x[k + 7]
        for n in range(panel.shape[1]):
            sums[n] = (
                sums[n]
                + x0 * np.float32(panel[k, n])
                + x1 * np.float32(panel[k + 1, n])
                + x2 * np.float32(panel[k + 2, n])
                + x3 * np.float32(panel[k + 3, n])
                + x4 * np.float32(panel[k + 4, n])
                + x5 * np.float32(panel[k + 5, n])
                + x6 * np.float32(panel[k + 6, n])
                + x7 * np.float32(panel[k + 7, n])
            )


@jit()
def _add_2_code(x: Float32, panel: PanelValues, centre: np.float32, sums: Float32) -> None:
    """Of levels code - centre, four rows a byte."""
    for k in range(0, x.shape[0], ROW_MULTIPLE):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        x4, x5, x6, x7 = x[k + 4], x[k + 5], x[k + 6], x[k + 7]
        byte = k // 4
        for n in range(panel.shape[1]):
            p0, p1 = panel[byte, n], panel[byte + 1, n]
            sums[n] = (
                sums[n]
                + x0 * _even(_code(p0, _ZERO, _3), centre)
                + x1 * _even(_code(p0, _TWO, _3), centre)
                + x2 * _even(_code(p0, _FOUR, _3), centre)
                + x3 * _even(_code(p0, _SIX, _3), centre)
                + x4 * _even(_code(p1, _ZERO, _3), centre)
                + x5 * _even(_code(p1, _TWO, _3), centre)
                + x6 * _even(_code(p1, _FOUR, _3), centre)
                + x7 * _even(_code(p1, _SIX, _3), centre)
            )


@jit()
def _add_4_code(x: Float32, panel: PanelValues, centre: np.float32, sums: Float32) -> None:
    """Of levels code - centre, two rows a byte."""
    for k in range(0, x.shape[0], ROW_MULTIPLE):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        x4, x5, x6, x7 = x[k + 4], x[k + 5], x[k + 6], x[k + 7]
        byte = k // 2
        for n in range(panel.shape[1]):
            p0, p1 = panel[byte, n], panel[byte + 1, n]
            p2, p3 = panel[byte + 2, n], panel[byte + 3, n]
            sums[n] = (
                sums[n]
                + x0 * _even(_code(p0, _ZERO, _15), centre)
                + x1 * _even(_code(p0, _FOUR, _15), centre)
                + x2 * _even(_code(p1, _ZERO, _15), centre)
                + x3 * _even(_code(p1, _FOUR, _15), centre)
                + x4 * _even(_code(p2, _ZERO, _15), centre)
                + x5 * _even(_code(p2, _FOUR, _15), centre)
                + x6 * _even(_code(p3, _ZERO, _15), centre)
                + x7 * _even(_code(p3, _FOUR, _15), centre)
            )


@jit()
def _add_bent(x: Float32, panel: PanelValues, slope: np.float32, sums: Float32) -> None:
    """Of bent levels, two rows a byte."""
    for k in range(0, x.shape[0], ROW_MULTIPLE):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        x4, x5, x6, x7 = x[k + 4], x[k + 5], x[k + 6], x[k + 7]
        byte = k // 2
        for n in range(panel.shape[1]):
            p0, p1 = panel[byte, n], panel[byte + 1, n]
            p2, p3 = panel[byte + 2, n], panel[byte + 3, n]
            sums[n] = (
                sums[n]
                + x0 * _bent(_code(p0, _ZERO, _15), slope)
                + x1 * _bent(_code(p0, _FOUR, _15), slope)
                + x2 * _bent(_code(p1, _ZERO, _15), slope)
                + x3 * _bent(_code(p1, _FOUR, _15), slope)
                + x4 * _bent(_code(p2, _ZERO, _15), slope)
                + x5 * _bent(_code(p2, _FOUR, _15), slope)
                + x6 * _bent(_code(p3, _ZERO, _15), slope)
                + x7 * _bent(_code(p3, _FOUR, _15), slope)
            )


@jit()
def _code(byte: int, shift: np.int32, mask: np.int32) -> np.int32:
    """A code; int32 throughout, as int64 would halve the speed."""
    return np.int32(np.int32(np.int32(byte) >> shift) & mask)


@jit()
def _even(code: np.int32, centre: np.float32) -> np.float32:
    """One of the levels that are evenly spaced about that of code `centre`."""
    return np.float32(code) - centre


@jit()
def _bent(code: np.int32, slope: np.float32) -> np.float32:
    """A bent level, which beyond the bend has this slope."""
    centred = np.float32(code) - _CENTRE
    return slope * centred - (slope - _ONE) * min(max(centred, -_BEND), _BEND)
