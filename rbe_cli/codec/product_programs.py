"""Multiply a vector with a matrix in compiled code, as encoders need it for error feedback."""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.runtime.floating import fused_float
from rbe_cli.runtime.jit import program_code

Float32 = NDArray[np.float32]


@program_code
def add_product(factors: Float32, rows: Float32, start: int, out: Float32) -> None:
    """Add factors `[n]` times rows[:, start:] to out[start:], eight rows at a time."""
    whole = len(factors) // 8 * 8
    sums = out[start:]
    for j in range(0, whole, 8):
        f0, f1, f2, f3 = factors[j], factors[j + 1], factors[j + 2], factors[j + 3]
        f4, f5, f6, f7 = factors[j + 4], factors[j + 5], factors[j + 6], factors[j + 7]
        # The compiler knows that a slice of one row is contiguous, but not a slice of several rows.
        r0, r1, r2, r3 = (
            rows[j][start:],
            rows[j + 1][start:],
            rows[j + 2][start:],
            rows[j + 3][start:],
        )
        r4, r5, r6, r7 = (
            rows[j + 4][start:],
            rows[j + 5][start:],
            rows[j + 6][start:],
            rows[j + 7][start:],
        )
        for k in range(sums.shape[0]):
            low, high = f0 * r0[k], f4 * r4[k]
            low, high = fused_float(f1, r1[k], low), fused_float(f5, r5[k], high)
            low, high = fused_float(f2, r2[k], low), fused_float(f6, r6[k], high)
            low, high = fused_float(f3, r3[k], low), fused_float(f7, r7[k], high)
            sums[k] += low + high
    for j in range(whole, len(factors)):
        row = rows[j][start:]
        for k in range(sums.shape[0]):
            sums[k] = fused_float(factors[j], row[k], sums[k])
