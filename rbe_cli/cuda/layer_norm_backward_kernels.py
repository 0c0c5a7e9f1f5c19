"""Compute the gradients of LayerNorm; those of gamma and beta by sums in a fixed order.

A block takes `STRIP` rows one after the other and adds up what they give for gamma and beta; a
second kernel adds the blocks' sums. Neither depends on which block runs first.
"""

from typing import Any

import numpy as np
from numba import cuda, float32, float64

from rbe_cli.cuda.group_sums import sum_pairs
from rbe_cli.cuda.kernel import MOST_THREADS, kernel
from rbe_cli.cuda.layer_norm_kernels import ITEMS

STRIP = 8
"""Rows that a block takes, whatever their number: sums then have the same order everywhere."""

_FORMS = tuple(
    f"void({rows}, float64[:, ::1], float32[::1], {rows}, {rows}, float32[:, :, ::1])"
    for rows in ("float32[:, ::1]", "float16[:, ::1]")
)


@kernel(*_FORMS, most_threads=512)  # which leaves 128 registers to each
def layer_norm_backward_rows(
    x: Any, statistics: Any, gamma: Any, grad: Any, out: Any, sums: Any
) -> None:
    """Set out = rstd (g - mean(g) - x^ mean(g x^)), where g = grad gamma, x^ = (x - mean) rstd.

    For rows of up to `ITEMS` elements a thread, with shared memory for two float64 a thread.

    Args:
        x: `[rows, d]`, float32 or float16; grad and out have the same type.
        statistics: `[rows, 2]`, mean and rstd of each row.
        gamma: `[d]`.
        grad: `[rows, d]`, with respect to the result.
        out: `[rows, d]`.
        sums: `[blocks, 2, d]`, takes each block's sums of grad x^ and of grad.
    """
    shared = cuda.shared.array(0, float64)
    normals, grads = cuda.local.array(ITEMS, float32), cuda.local.array(ITEMS, float32)
    scales, shifts = cuda.local.array(ITEMS, float32), cuda.local.array(ITEMS, float32)
    lane, lanes, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    length = x.shape[1]
    for i in range(ITEMS):
        scales[i] = np.float32(0)
        shifts[i] = np.float32(0)
    for row in range(block * STRIP, min((block + 1) * STRIP, x.shape[0])):
        mean, scale = statistics[row, 0], np.float32(statistics[row, 1])
        high = np.float32(mean)
        low = np.float32(mean - np.float64(high))
        total, along = np.float32(0), np.float32(0)
        for i in range(ITEMS):
            column = lane + i * lanes
            normals[i] = np.float32(0)
            grads[i] = np.float32(0)
            if column < length:
                normals[i] = (np.float32(x[row, column]) - high - low) * scale
                own = np.float32(grad[row, column])
                scales[i] += own * normals[i]
                shifts[i] += own
                grads[i] = own * gamma[column]
                total += grads[i]
                along += grads[i] * normals[i]
        sum_pairs(shared, 0, lane, lanes, np.float64(total), np.float64(along))
        middle, slope = np.float32(shared[0] / length), np.float32(shared[1] / length)
        cuda.syncthreads()  # all have read the sums
        for i in range(ITEMS):
            column = lane + i * lanes
            if column < length:
                out[row, column] = scale * (grads[i] - middle - normals[i] * slope)
    for i in range(ITEMS):
        column = lane + i * lanes
        if column < length:
            sums[block, 0, column] = scales[i]
            sums[block, 1, column] = shifts[i]


@kernel(*_FORMS, most_threads=MOST_THREADS)
def layer_norm_backward_wide_rows(
    x: Any, statistics: Any, gamma: Any, grad: Any, out: Any, sums: Any
) -> None:
    """Do what `layer_norm_backward_rows` does for rows of any width, which it reads twice."""
    shared = cuda.shared.array(0, float64)
    lane, lanes, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    length = x.shape[1]
    for column in range(lane, length, lanes):
        sums[block, 0, column] = np.float32(0)
        sums[block, 1, column] = np.float32(0)
    for row in range(block * STRIP, min((block + 1) * STRIP, x.shape[0])):
        mean, scale = statistics[row, 0], np.float32(statistics[row, 1])
        high = np.float32(mean)
        low = np.float32(mean - np.float64(high))
        total, along = 0.0, 0.0
        for column in range(lane, length, lanes):
            normal = (np.float32(x[row, column]) - high - low) * scale
            own = np.float32(grad[row, column])
            sums[block, 0, column] += own * normal
            sums[block, 1, column] += own
            total += np.float64(own * gamma[column])
            along += np.float64(own * gamma[column] * normal)
        sum_pairs(shared, 0, lane, lanes, total, along)
        middle, slope = np.float32(shared[0] / length), np.float32(shared[1] / length)
        cuda.syncthreads()
        for column in range(lane, length, lanes):
            normal = (np.float32(x[row, column]) - high - low) * scale
            own = np.float32(grad[row, column]) * gamma[column]
            out[row, column] = scale * (own - middle - normal * slope)


@kernel("void(float32[:, :, ::1], float32[::1], float32[::1])")
def layer_norm_parameter_sums(sums: Any, grad_gamma: Any, grad_beta: Any) -> None:
    """Add the sums `[blocks, 2, d]` over the blocks, one column a thread, in float64."""
    column = cuda.grid(1)
    if column < grad_gamma.shape[0]:
        scale, shift = 0.0, 0.0
        for block in range(sums.shape[0]):
            scale += np.float64(sums[block, 0, column])
            shift += np.float64(sums[block, 1, column])
        grad_gamma[column] = np.float32(scale)
        grad_beta[column] = np.float32(shift)
