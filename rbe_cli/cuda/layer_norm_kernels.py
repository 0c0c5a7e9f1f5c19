"""Compute LayerNorm (Ba et al. 2016): a group of threads takes a row, and keeps it in registers.

The mean is first taken of the differences from the row's first element, then corrected by the mean
of what it leaves, as is the variance (the corrected two-pass algorithm: Chan, Golub & LeVeque 1983,
equation 1.7). A thread adds `ITEMS` numbers in float32; all else is added in float64. The mean is
kept in two floats, so that a small spread about a large mean survives: 1e6 beside 1e-6.
"""

import math
from typing import Any

import numpy as np
from numba import cuda, float32, float64

from rbe_cli.cuda.group_sums import sum_pairs
from rbe_cli.cuda.kernel import MOST_THREADS, kernel

ITEMS = 8
"""Elements of a row that a thread keeps in registers."""

_ROWS = "float32[:, ::1], float32[::1], float32[::1], float64, float32[:, ::1], float64[:, ::1]"
_HALF_ROWS = (
    "float16[:, ::1], float32[::1], float32[::1], float64, float16[:, ::1], float64[:, ::1]"
)
_FORMS = tuple(f"void({own}, boolean, int32)" for own in (_ROWS, _HALF_ROWS))


@cuda.jit(device=True)
def close_statistics(
    shared: Any, place: int, length: int, near: float, eps: float, statistics: Any, row: int
) -> None:
    """Turn the sums at a place of shared memory into mean and rstd; keep them in `statistics`.

    Args:
        shared: float64; the sum of the differences from `near`, and of their squares.
        place: of the two sums, and then of mean and rstd.
        length: elements of the row.
        near: a number near the mean.
        eps: is added to the variance.
        statistics: `[rows, 2]`, takes mean and rstd if `row` is one of its rows.
        row: index of the row; below 0 to keep nothing.
    """
    rest = shared[place] / length
    variance = max(shared[place + 1] / length - rest * rest, 0.0)
    mean, rstd = near + rest, 1.0 / math.sqrt(variance + eps)
    shared[place], shared[place + 1] = mean, rstd
    if row >= 0:
        statistics[row, 0], statistics[row, 1] = mean, rstd


@kernel(*_FORMS, most_threads=896)  # which leaves 72 registers to each
def layer_norm_rows(
    x: Any, gamma: Any, beta: Any, eps: float, out: Any, statistics: Any, keeps: bool, lanes: int
) -> None:
    """Set out = (x - mean) rstd gamma + beta for rows of up to `ITEMS * lanes` elements.

    A block has one row for each `lanes` of its threads, and shared memory for two float64 a thread.

    Args:
        x: `[rows, d]`, float32 or float16; out has the same type.
        gamma, beta: `[d]`.
        eps: is added to the variance.
        out: `[rows, d]`.
        statistics: `[rows, 2]`, takes mean and rstd of each row if it `keeps` them.
        keeps: whether statistics are asked for.
        lanes: threads of a row.
    """
    shared = cuda.shared.array(0, float64)
    own = cuda.local.array(ITEMS, float32)
    group, lane = cuda.threadIdx.x // lanes, cuda.threadIdx.x % lanes
    row = cuda.blockIdx.x * (cuda.blockDim.x // lanes) + group
    length, is_real = x.shape[1], row < x.shape[0]
    source = row if is_real else 0  # a group past the end waits for the others
    place = 2 * group * lanes
    first = np.float32(x[source, 0])
    total = np.float32(0)
    for i in range(ITEMS):
        column = lane + i * lanes
        own[i] = np.float32(x[source, column]) if column < length else first
        total += own[i] - first
    sum_pairs(shared, group, lane, lanes, np.float64(total), 0.0)
    near = np.float32(np.float64(first) + shared[place] / length)
    cuda.syncthreads()  # all have read the sum
    total, squares = np.float32(0), np.float32(0)
    for i in range(ITEMS):
        if lane + i * lanes < length:
            centred = own[i] - near
            total += centred
            squares += centred * centred
    sum_pairs(shared, group, lane, lanes, np.float64(total), np.float64(squares))
    if lane == 0:
        kept = row if keeps and is_real else -1
        close_statistics(shared, place, length, np.float64(near), eps, statistics, kept)
    cuda.syncthreads()
    if is_real:
        mean, scale = shared[place], np.float32(shared[place + 1])
        high = np.float32(mean)
        low = np.float32((np.float64(high) - mean) * shared[place + 1])
        for i in range(ITEMS):
            column = lane + i * lanes
            if column < length:
                normal = (own[i] - high) * scale + low
                out[row, column] = normal * gamma[column] + beta[column]


@kernel(*_FORMS, most_threads=MOST_THREADS)
def layer_norm_wide_rows(
    x: Any, gamma: Any, beta: Any, eps: float, out: Any, statistics: Any, keeps: bool, lanes: int
) -> None:
    """Do what `layer_norm_rows` does for rows of any width, one a block, which it reads thrice."""
    shared = cuda.shared.array(0, float64)
    lane, row = cuda.threadIdx.x, cuda.blockIdx.x
    length = x.shape[1]
    first = np.float32(x[row, 0])
    whole = 0.0
    for column in range(lane, length, lanes):
        whole += np.float64(np.float32(x[row, column]) - first)
    sum_pairs(shared, 0, lane, lanes, whole, 0.0)
    near = np.float32(np.float64(first) + shared[0] / length)
    cuda.syncthreads()
    whole, squares = 0.0, 0.0
    for column in range(lane, length, lanes):
        centred = np.float64(np.float32(x[row, column]) - near)
        whole += centred
        squares += centred * centred
    sum_pairs(shared, 0, lane, lanes, whole, squares)
    if lane == 0:
        kept = row if keeps else -1
        close_statistics(shared, 0, length, np.float64(near), eps, statistics, kept)
    cuda.syncthreads()
    mean, scale = shared[0], np.float32(shared[1])
    high = np.float32(mean)
    low = np.float32((np.float64(high) - mean) * shared[1])
    for column in range(lane, length, lanes):
        normal = (np.float32(x[row, column]) - high) * scale + low
        out[row, column] = normal * gamma[column] + beta[column]
