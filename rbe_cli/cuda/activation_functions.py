"""Compute GPT-2's activation functions in kernels (kernels/activations/vector_math.py)."""

import math
from typing import Any

import numpy as np
from numba import cuda, float32

_HALF, _ONE, _ZERO = np.float32(0.5), np.float32(1), np.float32(0)
_ROOT = np.float32(-math.sqrt(0.5))
_TANH_SLOPE = np.float32(2 * math.sqrt(2 / math.pi))
_TANH_CUBIC = np.float32(2 * math.sqrt(2 / math.pi) * 0.044715)
_QUICK_SLOPE = np.float32(1.702)
_END = np.float32(80)  # e^-80 is 0 beside 1, and e^80 is finite


@cuda.jit(device=True)
def _times_sigmoid(x: Any, argument: Any) -> Any:
    """Return x / (1 + e^-argument)."""
    power = float32(math.exp(min(max(-argument, -_END), _END)))
    return float32(x / (_ONE + power))


@cuda.jit(device=True)
def activated(number: Any, x: Any) -> Any:
    """Return an activation function of x (float32), by its number in `kernel_records.ACTIVATIONS`.

    GELU is 0.5 x erfc(-x / sqrt(2)), and its approximation x sigmoid(2 u).
    """
    if number == 0:
        return _times_sigmoid(x, float32(x * (_TANH_SLOPE + _TANH_CUBIC * x * x)))
    if number == 1:
        return float32(_HALF * x * float32(math.erfc(_ROOT * x)))
    if number == 2:
        return _times_sigmoid(x, float32(_QUICK_SLOPE * x))
    if number == 3:
        return _times_sigmoid(x, x)
    return x if x > _ZERO or x != x else _ZERO
