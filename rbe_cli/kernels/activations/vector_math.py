"""Compute GPT-2's activation functions of 16 lanes, and their derivatives.

GELU: Hendrycks & Gimpel 2016, exact and in its two approximations (section 2):
0.5 x (1 + tanh(u)) = x sigmoid(2 u), which needs one exponential.
"""

import math
from typing import Any

import numpy as np

from rbe_cli.algebra.exponential_program import exp
from rbe_cli.kernels.kernel_records import ACTIVATE
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    absolute,
    fused,
    larger,
    load_floats,
    record,
    smaller,
    splat_float,
    store_floats,
    where_positive,
    with_sign,
)
from rbe_cli.runtime.team_programs import share

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_TANH_SLOPE = np.float32(-2 * math.sqrt(2 / math.pi))
_TANH_CUBIC = np.float32(-2 * math.sqrt(2 / math.pi) * 0.044715)
_TANH_CUBIC_3 = np.float32(-6 * math.sqrt(2 / math.pi) * 0.044715)
_QUICK_SLOPE = np.float32(-1.702)
_DENSITY_AT_0 = np.float32(1 / math.sqrt(2 * math.pi))
# Beyond these, a derivative is that of its asymptote.
_GELU_END, _QUICK_END = np.float32(15), np.float32(60)
# erfc(z) = t (a1 + t (a2 + ...)) e^(-z^2), t = 1 / (1 + p z): Abramowitz & Stegun 7.1.26, whose
# absolute error is 1.5e-7.
_P = np.float32(0.3275911 * math.sqrt(0.5))
_A1, _A2, _A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
_A4, _A5 = np.float32(-1.453152027), np.float32(1.061405429)


@program_code
def _times_sigmoid(x: Any, negative: Any) -> Any:
    """Return x sigmoid(-negative)."""
    return x / (splat_float(_ONE) + exp(negative))


@program_code
def _upper_tail(z: Any) -> Any:
    """Return 1 - Phi(z) of the normal distribution, z >= 0."""
    t = splat_float(_ONE) / fused(splat_float(_P), z, splat_float(_ONE))
    p = fused(splat_float(_A5), t, splat_float(_A4))
    p = fused(p, t, splat_float(_A3))
    p = fused(p, t, splat_float(_A2))
    p = fused(p, t, splat_float(_A1)) * t
    return splat_float(_HALF) * p * exp(splat_float(-_HALF) * z * z)


@program_code
def _gelu(x: Any) -> Any:
    """Return 0.5 x (1 + erf(x / sqrt(2)))."""
    z = absolute(x)
    return larger(x, splat_float(_ZERO)) - z * _upper_tail(z)


@program_code
def activated(number: int, x: Any) -> Any:
    """Return an activation function of x."""
    if number == 0:
        slope = fused(x * x, splat_float(_TANH_CUBIC), splat_float(_TANH_SLOPE))
        return _times_sigmoid(x, x * slope)
    if number == 1:
        return _gelu(x)
    if number == 2:
        return _times_sigmoid(x, x * splat_float(_QUICK_SLOPE))
    if number == 3:
        return _times_sigmoid(x, splat_float(_ZERO) - x)
    return larger(splat_float(_ZERO), x)


@program_code
def activate(number: int, address: int, length: int) -> None:
    """Apply an activation function in place to float32 `[length]`, a multiple of 16."""
    for i in range(0, 4 * length, 64):
        store_floats(address + i, activated(number, load_floats(address + i)))


@program_code
def _bounded(x: Any, end: Any) -> Any:
    """Return x, limited to -end and end; NaN stays NaN."""
    return smaller(splat_float(end), larger(splat_float(-end), x))


@program_code
def _times_sigmoid_slope(x: Any, negative: Any, slope: Any) -> Any:
    """Return the derivative of x sigmoid(-negative); `slope` is that of `negative`."""
    gate = splat_float(_ONE) / (splat_float(_ONE) + exp(negative))
    return gate - x * slope * gate * (splat_float(_ONE) - gate)


@program_code
def _silu_slope(x: Any) -> Any:
    """Return the derivative of x sigmoid(x), which is finite for every finite x."""
    one = splat_float(_ONE)
    gate = one / (one + exp(splat_float(_ZERO) - x))
    return gate * fused(x, one - gate, one)


@program_code
def _gelu_slope(x: Any) -> Any:
    """Return Phi(x) + x phi(x), of the normal distribution and its density."""
    half = splat_float(_HALF)
    below = half + with_sign(half - _upper_tail(absolute(x)), x)
    return fused(x * splat_float(_DENSITY_AT_0), exp(splat_float(-_HALF) * x * x), below)


@program_code
def activate_backward(number: int, x: int, grad: int, length: int) -> None:
    """Multiply grad by the derivative at x, both float32 `[length]`, a multiple of 16."""
    for i in range(0, 4 * length, 64):
        own, change = load_floats(x + i), load_floats(grad + i)
        if number == 0:
            v = _bounded(own, _GELU_END)
            negative = v * fused(v * v, splat_float(_TANH_CUBIC), splat_float(_TANH_SLOPE))
            slope = fused(v * v, splat_float(_TANH_CUBIC_3), splat_float(_TANH_SLOPE))
            y = change * _times_sigmoid_slope(v, negative, slope)
        elif number == 1:
            y = change * _gelu_slope(_bounded(own, _GELU_END))
        elif number == 2:
            v = _bounded(own, _QUICK_END)
            slope = splat_float(_QUICK_SLOPE)
            y = change * _times_sigmoid_slope(v, v * slope, slope)
        elif number == 3:
            y = change * _silu_slope(own)
        else:
            y = where_positive(own, change, splat_float(_ZERO))
        store_floats(grad + i, y)


@program_code
def activate_program(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Run a part's share of an activation function, or of its gradient, in place."""
    job = record(ACTIVATE, job_address)
    vectors = job.length // 16
    first, last = 16 * share(vectors, part, parts), 16 * share(vectors, part + 1, parts)
    if job.grad == 0:
        activate(job.activation, job.x + 4 * first, last - first)
    else:
        activate_backward(job.activation, job.x + 4 * first, job.grad + 4 * first, last - first)
