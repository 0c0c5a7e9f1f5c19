"""Multiply tokens by a matrix of float32 in a kernel, for what is stored without compression."""

from typing import Any

import numpy as np
from numba import cuda, float32

from rbe_cli.cuda.inline_ptx import fused
from rbe_cli.cuda.kernel import kernel
from rbe_cli.cuda.product_output import OUTPUT_ARGUMENTS, finish

SIDE = 16
"""Tokens and columns of a block, which has a thread for each pair of them."""
COPY_THREADS = 128
_ZERO = np.float32(0)


@kernel(f"void(float32[:, ::1], float32[:, ::1], {OUTPUT_ARGUMENTS})")
def multiply_dense(
    x: Any, weight: Any, lanes: Any, steps: Any, bias: Any, overflow: Any, added: Any, out: Any,
    activation: Any, flags: Any,
) -> None:  # fmt: skip
    """Multiply x `[tokens, K]` by a weight `[K, N]`; see `finish` for the other arguments.

    Blocks of the same columns follow each other; tiles of both matrices go through shared memory.
    """
    token_blocks = (x.shape[0] + SIDE - 1) // SIDE
    row, column = cuda.threadIdx.x // SIDE, cuda.threadIdx.x % SIDE
    token = SIDE * (cuda.blockIdx.x % token_blocks) + row
    output = SIDE * (cuda.blockIdx.x // token_blocks) + column
    own_x = cuda.shared.array((SIDE, SIDE), float32)
    own_weight = cuda.shared.array((SIDE, SIDE), float32)
    total = _ZERO
    for start in range(0, x.shape[1], SIDE):
        own_x[row, column] = own_weight[row, column] = _ZERO
        if token < x.shape[0] and start + column < x.shape[1]:
            own_x[row, column] = x[token, start + column]
        if start + row < x.shape[1] and output < weight.shape[1]:
            own_weight[row, column] = weight[start + row, output]
        cuda.syncthreads()
        for place in range(SIDE):
            total = fused(own_x[row, place], own_weight[place, column], total)
        cuda.syncthreads()
    if token < x.shape[0] and output < weight.shape[1]:
        finish(total, token, output, lanes, steps, bias, overflow, added, out, activation, flags)


@kernel("void(float32[:, ::1], int32[::1], float32[:, ::1])")
def copy_columns(weight: Any, indices: Any, out: Any) -> None:
    """Set out `[n, K]` to columns of `[K, N]`, a block each."""
    for row in range(cuda.threadIdx.x, out.shape[1], cuda.blockDim.x):
        out[cuda.blockIdx.x, row] = weight[row, indices[cuda.blockIdx.x]]
