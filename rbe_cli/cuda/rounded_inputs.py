"""Round what a matrix is multiplied by to integers, as the CPU's products do (products.py).

An input times its row's step becomes an integer within +-32512 of a scale that 256 rows share, and
is stored as two signed bytes: high * 256 + low.
"""

from typing import Any

import numpy as np
from numba import cuda, float32, int32, uint32

from rbe_cli.cuda.kernel import kernel
from rbe_cli.kernels.kernel_records import GROUP_ROWS
from rbe_cli.weights.panel_layout import QUADS, TILE_ROWS
from rbe_cli.weights.trellis_layout import GROUP_TILES

_THREADS = GROUP_ROWS // 4  # a word each
_LIMIT, _ZERO = np.float32(32512), np.float32(0)
_SMALLEST = np.float32(1e-34)  # whose inverse, times a limit, is still finite
_LARGEST = np.float32(np.finfo(np.float32).max)
_INFINITE, _NOT_A_NUMBER = np.float32(np.inf), np.float32(np.nan)


@kernel("void(float32[:, ::1], float32[::1], int32, uint32[::1], uint32[::1], float32[::1])")
def round_inputs(x: Any, row_steps: Any, tiles: Any, high: Any, low: Any, scales: Any) -> None:
    """Round tokens: a block of 64 threads for each token and group of 256 rows.

    Args:
        x: `[tokens, K]`.
        row_steps: `[K]`.
        tiles: K / 32, rounded up.
        high, low: take `[tokens, 8 tiles]` words of four rows, zeros beyond K.
        scales: takes `[tokens, tiles / 8]`, not a number where an input is not finite.
    """
    groups = (tiles + GROUP_TILES - 1) // GROUP_TILES
    token, group = cuda.blockIdx.x // groups, cuda.blockIdx.x % groups
    thread = cuda.threadIdx.x
    values = cuda.local.array(4, float32)
    largest = cuda.shared.array(_THREADS, float32)
    own = _ZERO
    for place in range(4):
        row = GROUP_ROWS * group + 4 * thread + place
        value = _ZERO
        if row < x.shape[1]:
            value = float32(x[token, row] * row_steps[row])
        values[place] = value
        own = max(own, abs(value)) if abs(value) <= _LARGEST else _INFINITE
    largest[thread] = own
    cuda.syncthreads()
    top = _ZERO
    for other in range(_THREADS):
        top = max(top, largest[other])
    inverse = _ZERO
    if top > _SMALLEST and top <= _LARGEST:
        inverse = float32(_LIMIT / top)
    if thread == 0:
        scales[token * groups + group] = _NOT_A_NUMBER if top > _LARGEST else top / _LIMIT
    word = QUADS * GROUP_TILES * group + thread
    if word >= QUADS * tiles:
        return
    of_high, of_low = uint32(0), uint32(0)
    if inverse > _ZERO:
        for place in range(4):
            # Not by adding 1.5 * 2^23: the compiler would fuse product and sum, which rounds once.
            rounded = int32(round(float32(values[place] * inverse)))
            lower = ((rounded + 128) & 255) - 128
            upper = (rounded - lower) >> 8
            of_high = uint32(of_high | uint32((upper & 255) << (8 * place)))
            of_low = uint32(of_low | uint32((lower & 255) << (8 * place)))
    high[QUADS * tiles * token + word] = of_high
    low[QUADS * tiles * token + word] = of_low


class RoundedInputs:
    """Hold the rounded inputs of a product on the device, in memory that all products share.

    Attributes:
        high, low: uint32, flat, `[tokens, 8 tiles]` words of four rows.
        scales: float32, flat, `[tokens, groups]`.
    """

    def __init__(self) -> None:
        self.high = self.low = cuda.device_array(1, np.uint32)
        self.scales = cuda.device_array(1, np.float32)

    @staticmethod
    def bytes_of(rows: int) -> int:
        """Return the bytes that a token of that many rows takes."""
        tiles = -(-rows // TILE_ROWS)
        return 2 * TILE_ROWS * tiles + 4 * -(-tiles // GROUP_TILES)

    def fill(self, x: Any, row_steps: Any) -> None:
        """Round tokens `[tokens, K]` times the steps `[K]` of rows."""
        tokens, rows = x.shape
        tiles = -(-rows // TILE_ROWS)
        groups = -(-tiles // GROUP_TILES)
        if self.high.shape[0] < tokens * tiles * QUADS:
            self.high = cuda.device_array(tokens * tiles * QUADS, np.uint32)
            self.low = cuda.device_array(tokens * tiles * QUADS, np.uint32)
        if self.scales.shape[0] < tokens * groups:
            self.scales = cuda.device_array(tokens * groups, np.float32)
        round_inputs.launch(
            tokens * groups, _THREADS, x, row_steps, tiles, self.high, self.low, self.scales
        )
