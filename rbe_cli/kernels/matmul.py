"""out = x W + bias for a matrix in panels (`panel.py`).

Each panel is one piece of parallel work. Every output is a sum over k in ascending
order of fused multiply-adds in float32, times its step, whatever the number of tokens and
of threads.

With a few tokens the integers are converted in registers on their way from memory. With
many, a tile of a panel is converted once into the L1 cache and serves a block of tokens.
Loops over a panel's columns take their length from the array: LLVM vectorises a length it
does not know, and unrolls one that it does.
"""

import numpy as np
from numba import prange

from rbe_cli.jit import jit
from rbe_cli.kernels.arrays import Float32, PanelValues
from rbe_cli.kernels.panel import ROW_MULTIPLE, padded_rows
from rbe_cli.kernels.threads import Launcher

_FEW_TOKENS = 3  # up to here, reading a panel again for each token is faster
_TOKEN_GROUP = 4  # tokens that share a tile's row in registers
_BLOCK_TOKENS = 64
_TILE_ROWS = 64
_FOUR = np.int32(4)
_TWENTY_EIGHT = np.int32(28)


def matmul(
    launch: Launcher,
    x: Float32,
    values: PanelValues,
    column_steps: Float32,
    bias: Float32,
    out: Float32,
) -> None:
    """x `[tokens, K]`, panels, column_steps and bias `[N]` -> out `[tokens, N]`."""
    tokens, rows = x.shape
    group = 1 if tokens <= _FEW_TOKENS else _TOKEN_GROUP
    padded = np.zeros((-(-tokens // group) * group, padded_rows(rows)), np.float32)
    padded[:tokens, :rows] = x
    launch(_matmul, tokens * rows * out.shape[1], padded, values, column_steps, bias, out)


@jit(parallel=True)
def _matmul(
    x: Float32, values: PanelValues, column_steps: Float32, bias: Float32, out: Float32
) -> None:
    for panel in prange(values.shape[0]):
        _multiply_panel(x, values[panel], column_steps, bias, panel * values.shape[2], out)


@jit()
def _multiply_panel(
    x: Float32,
    panel: PanelValues,
    column_steps: Float32,
    bias: Float32,
    first: int,
    out: Float32,
) -> None:
    """out[:, first : first + 64] = x panel column_steps + bias; x `[tokens', K']` is padded."""
    tokens, width = out.shape[0], panel.shape[1]
    is_packed = panel.shape[0] < x.shape[1]
    columns = min(width, out.shape[1] - first)
    sums = np.empty((min(_BLOCK_TOKENS, x.shape[0]), width), np.float32)
    tile = np.empty((min(_TILE_ROWS, x.shape[1]), width), np.float32)
    for start in range(0, tokens, _BLOCK_TOKENS):
        block = x[start : start + _BLOCK_TOKENS]
        sums[:] = 0
        if tokens <= _FEW_TOKENS:
            for token in range(tokens):
                if is_packed:
                    _add_row_packed(x[token], panel, sums[token])
                else:
                    _add_row(x[token], panel, sums[token])
        else:
            _add_block(block, panel, tile, sums)
        for token in range(min(len(block), tokens - start)):
            for n in range(columns):
                step = column_steps[first + n]
                out[start + token, first + n] = sums[token, n] * step + bias[first + n]


@jit()
def _add_block(x: Float32, panel: PanelValues, tile: Float32, sums: Float32) -> None:
    """sums += x panel, for a multiple of 4 tokens."""
    is_packed = panel.shape[0] < x.shape[1]
    for first in range(0, x.shape[1], tile.shape[0]):
        rows = min(tile.shape[0], x.shape[1] - first)
        if is_packed:
            _convert_packed(panel, first, tile[:rows])
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
def _add_row(x: Float32, panel: PanelValues, sums: Float32) -> None:
    """sums `[64]` += x `[K']` panel, eight rows at a time."""
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
def _add_row_packed(x: Float32, panel: PanelValues, sums: Float32) -> None:
    """The same for two rows a byte."""
    for k in range(0, x.shape[0], ROW_MULTIPLE):
        x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
        x4, x5, x6, x7 = x[k + 4], x[k + 5], x[k + 6], x[k + 7]
        pair = k // 2
        for n in range(panel.shape[1]):
            p0, p1 = panel[pair, n], panel[pair + 1, n]
            p2, p3 = panel[pair + 2, n], panel[pair + 3, n]
            sums[n] = (
                sums[n]
                + x0 * _low(p0)
                + x1 * _high(p0)
                + x2 * _low(p1)
                + x3 * _high(p1)
                + x4 * _low(p2)
                + x5 * _high(p2)
                + x6 * _low(p3)
                + x7 * _high(p3)
            )


@jit()
def _convert(panel: PanelValues, first: int, tile: Float32) -> None:
    """tile `[rows, 64]` = the panel's rows from `first`, as float32."""
    for k in range(tile.shape[0]):
        for n in range(tile.shape[1]):
            tile[k, n] = panel[first + k, n]


@jit()
def _convert_packed(panel: PanelValues, first: int, tile: Float32) -> None:
    """The same for two rows a byte; `first` is even."""
    for k in range(0, tile.shape[0], 2):
        pair = (first + k) // 2
        for n in range(tile.shape[1]):
            tile[k, n] = _low(panel[pair, n])
            tile[k + 1, n] = _high(panel[pair, n])


@jit()
def _low(byte: int) -> np.float32:
    """The low half of a byte, sign-extended; int32 throughout, as int64 would halve the speed."""
    shifted = np.int32(np.int32(byte) << _TWENTY_EIGHT)
    return np.float32(np.int32(shifted >> _TWENTY_EIGHT))


@jit()
def _high(byte: int) -> np.float32:
    """The high half of a byte, sign-extended."""
    return np.float32(np.int32(np.int32(np.int8(byte)) >> _FOUR))
