"""GPT-2's activation functions, in place on `[tokens, n_inner]`.

GELU: Hendrycks & Gimpel 2016, exact and in its two approximations (section 2):
0.5 x (1 + tanh(u)) = x sigmoid(2 u), which needs one exponential.
"""

import math

import numpy as np

from rbe_cli.checkpoint.config import Activation
from rbe_cli.jit import jit
from rbe_cli.kernels.arrays import Float32, InPlace
from rbe_cli.kernels.exponential import exp

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_SQRT_HALF = np.float32(math.sqrt(0.5))
_TANH_SLOPE = np.float32(2 * math.sqrt(2 / math.pi))
_TANH_CUBIC = np.float32(2 * math.sqrt(2 / math.pi) * 0.044715)
_QUICK_SLOPE = np.float32(1.702)


@jit()
def gelu_tanh(x: Float32) -> None:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            v = x[token, i]
            x[token, i] = v / (_ONE + exp(-v * (_TANH_SLOPE + _TANH_CUBIC * v * v)))


@jit()
def gelu(x: Float32) -> None:
    """0.5 x (1 + erf(x / sqrt(2)))."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            v = x[token, i]
            x[token, i] = _HALF * v * np.float32(_ONE + math.erf(v * _SQRT_HALF))


@jit()
def quick_gelu(x: Float32) -> None:
    """x sigmoid(1.702 x)."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            v = x[token, i]
            x[token, i] = v / (_ONE + exp(-_QUICK_SLOPE * v))


@jit()
def silu(x: Float32) -> None:
    """x sigmoid(x)."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            v = x[token, i]
            x[token, i] = v / (_ONE + exp(-v))


@jit()
def relu(x: Float32) -> None:
    """max(x, 0)."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            x[token, i] = max(x[token, i], _ZERO)


BY_NAME: dict[Activation, InPlace] = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "relu": relu,
}
