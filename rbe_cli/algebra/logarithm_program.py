"""Compute logarithms inside compiled programs, with the same bits on every CPU."""

import math
from typing import Any

from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import bits_double, double_bits

_FRACTION, _EXPONENT_OF_1 = (1 << 52) - 1, 1023 << 52
_ROOT_2 = math.sqrt(2)
_TWICE_LOG2_E = 2.8853900817779268
_TERMS = 12  # of the series of log((1 + f) / (1 - f)), |f| < .172


@program_code
def log2_of(x: Any) -> float:
    """Return the logarithm to the base 2 of a float64 above 0 that is not subnormal."""
    bits = double_bits(x)
    whole = (bits >> 52) - 1023
    mantissa = bits_double((bits & _FRACTION) | _EXPONENT_OF_1)
    if mantissa > _ROOT_2:
        mantissa *= 0.5
        whole += 1
    f = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = f * f, 0.0
    for k in range(_TERMS, -1, -1):
        total = total * square + 1.0 / (2 * k + 1)
    return whole + _TWICE_LOG2_E * f * total
