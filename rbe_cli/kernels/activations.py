"""GPT-2's activation functions, in place on `[tokens, n_inner]`, and their derivatives.

GELU: Hendrycks & Gimpel 2016, exact and in its two approximations (section 2):
0.5 x (1 + tanh(u)) = x sigmoid(2 u), which needs one exponential.
"""

import math

import numpy as np

from rbe_cli.jit import jit
from rbe_cli.kernels.arrays import Float32
from rbe_cli.kernels.exponential import exp

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_SQRT_HALF = np.float32(math.sqrt(0.5))
_TANH_SLOPE = np.float32(2 * math.sqrt(2 / math.pi))
_TANH_CUBIC = np.float32(2 * math.sqrt(2 / math.pi) * 0.044715)
_TANH_CUBIC_3 = np.float32(3 * 2 * math.sqrt(2 / math.pi) * 0.044715)
_QUICK_SLOPE = np.float32(1.702)
_DENSITY_AT_0 = np.float32(1 / math.sqrt(2 * math.pi))


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


@jit()
def _gate_derivative(x: np.float32, argument: np.float32, slope: np.float32) -> np.float32:
    """Derivative of x sigmoid(argument), `slope` being the argument's derivative."""
    gate = _ONE / (_ONE + exp(-argument))
    change = gate * (_ONE - gate)
    # Where the gate is shut or open, an infinite slope counts for nothing.
    return gate if change == _ZERO else gate + x * change * slope


@jit()
def gelu_tanh_backward(x: Float32, grad: Float32) -> None:
    """grad *= the derivative at x; the same for those below."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            v = x[token, i]
            square = v * v
            slope = _TANH_SLOPE + _TANH_CUBIC_3 * square
            argument = v * (_TANH_SLOPE + _TANH_CUBIC * square)
            grad[token, i] *= _gate_derivative(v, argument, slope)


@jit()
def gelu_backward(x: Float32, grad: Float32) -> None:
    """Phi(x) + x phi(x), of the normal distribution and its density."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            v = x[token, i]
            density = _DENSITY_AT_0 * exp(-_HALF * v * v)
            below = _HALF * np.float32(_ONE + math.erf(v * _SQRT_HALF))
            grad[token, i] *= below + v * density


@jit()
def quick_gelu_backward(x: Float32, grad: Float32) -> None:
    """Of x sigmoid(1.702 x)."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            v = x[token, i]
            grad[token, i] *= _gate_derivative(v, _QUICK_SLOPE * v, _QUICK_SLOPE)


@jit()
def silu_backward(x: Float32, grad: Float32) -> None:
    """Of x sigmoid(x)."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            grad[token, i] *= _gate_derivative(x[token, i], x[token, i], _ONE)


@jit()
def relu_backward(x: Float32, grad: Float32) -> None:
    """1 above 0, else 0."""
    for token in range(x.shape[0]):
        for i in range(x.shape[1]):
            if x[token, i] <= _ZERO:
                grad[token, i] = _ZERO
