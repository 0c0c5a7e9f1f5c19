"""Finish the outputs of a product in kernels: steps, bias, activation, and what is added."""

from typing import Any

import numpy as np
from numba import cuda, float32

from rbe_cli.cuda.activation_functions import activated
from rbe_cli.cuda.inline_ptx import fused

HAS_BIAS, HAS_ADDED, HAS_OVERFLOW = 1, 2, 4
"""Flags of a product."""
OUTPUT_ARGUMENTS = (
    "int32[::1], float32[::1], float32[::1], float32[::1], float32[:, ::1], float32[:, ::1], "
    "int32, int32"
)
"""The types of what a product passes on to `finish`, from `lanes` to `flags`."""
_OVERFLOW_UNIT = np.float32(128)


@cuda.jit(device=True)
def finish(
    total: Any, token: Any, place: Any, lanes: Any, steps: Any, bias: Any, overflow: Any,
    added: Any, out: Any, activation: Any, flags: Any,
) -> None:  # fmt: skip
    """Store an output: activation((total + overflow) * step + bias) + added.

    Args:
        total: the sum of integer products and scales, float32.
        token: row of `out`.
        place: the lane among all lanes of the matrix.
        lanes: `[panels * 16]`, the column of each lane, or -1.
        steps: `[panels * 16]`, the columns' steps times the unit of the levels.
        bias: `[N]`.
        overflow: flat, `[tokens, panels * 16]`, sums of what is past 8 bits, over 128.
        added, out: `[tokens, N]`; they may be the same.
        activation: number in `kernel_records.ACTIVATIONS`, -1 for none.
        flags: which of bias, overflow and added there are.
    """
    column = lanes[place]
    if column < 0:
        return
    if flags & HAS_OVERFLOW:
        total = fused(overflow[token * lanes.shape[0] + place], _OVERFLOW_UNIT, total)
    result = float32(0)
    if flags & HAS_BIAS:
        result = bias[column]
    result = fused(total, steps[place], result)
    if activation >= 0:
        result = activated(activation, result)
    if flags & HAS_ADDED:
        result = float32(result + added[token, column])
    out[token, column] = result
