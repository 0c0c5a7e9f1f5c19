"""Sums in an order that is written down: several partial sums side by side, then these.

Left to the compiler (`reassoc`), the order, and with it the last bits, may change between
code that was just compiled and the same code from Numba's cache.
"""

import numpy as np

from rbe_cli.jit import jit
from rbe_cli.kernels.arrays import Float32

_ZERO = np.float32(0)


@jit()
def dot(a: Float32, b: Float32) -> np.float32:
    """Sum of a * b, both `[n]`."""
    s0, s1, s2, s3 = _ZERO, _ZERO, _ZERO, _ZERO
    s4, s5, s6, s7 = _ZERO, _ZERO, _ZERO, _ZERO
    whole = a.shape[0] // 8 * 8
    for i in range(0, whole, 8):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
        s4 += a[i + 4] * b[i + 4]
        s5 += a[i + 5] * b[i + 5]
        s6 += a[i + 6] * b[i + 6]
        s7 += a[i + 7] * b[i + 7]
    for i in range(whole, a.shape[0]):
        s0 += a[i] * b[i]
    return np.float32(((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7)))


@jit()
def total(a: Float32) -> np.float32:
    """Sum of a `[n]`."""
    s0, s1, s2, s3 = _ZERO, _ZERO, _ZERO, _ZERO
    whole = a.shape[0] // 4 * 4
    for i in range(0, whole, 4):
        s0 += a[i]
        s1 += a[i + 1]
        s2 += a[i + 2]
        s3 += a[i + 3]
    for i in range(whole, a.shape[0]):
        s0 += a[i]
    return np.float32((s0 + s2) + (s1 + s3))
