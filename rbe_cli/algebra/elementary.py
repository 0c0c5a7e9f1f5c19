"""Compute exponentials and logarithms with the same bits on every CPU.

Those of numpy and of the C library depend on the CPU's instructions. These are made of sums,
products and quotients, whose rounding IEEE 754 defines.
"""

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.libraries import EXPONENTIALS
from rbe_cli.runtime.native import load

Kind = TypeVar("Kind", bound=np.floating[Any])
Float64 = NDArray[np.float64]
_LANES = 16
_LN_2_HIGH, _LN_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LN_2 = 0.6931471805599453
_LOG2_E = 1.4426950408889634
_LOG_TERMS = 12  # of the series of log((1 + f) / (1 - f)), |f| < .172
_EXP_TERMS = 14  # of the series of e^r, |r| < .347


def exp_in_place(values: NDArray[Kind]) -> NDArray[Kind]:
    """Replace x by e^x, and return the array.

    Args:
        values: float32 or float64 `[...]`, contiguous. Below -87.3 (float64: -708), e^x is that of
            this number; above 709, so in float64, and infinite above 88.37 in float32.

    Raises:
        TypeError: the array is of another type, or not contiguous.
    """
    if values.dtype not in (np.float32, np.float64) or not values.flags.c_contiguous:
        raise TypeError(f"exponentials are of contiguous float32 or float64, not {values.dtype}")
    (program,) = load([EXPONENTIALS])
    flat, is_double = values.reshape(-1), values.itemsize == 8
    whole = flat.size // _LANES * _LANES
    if whole:
        program(address(flat), whole, is_double)
    if whole < flat.size:
        rest = np.zeros(_LANES, values.dtype)
        rest[: flat.size - whole] = flat[whole:]
        program(address(rest), _LANES, is_double)
        flat[whole:] = rest[: flat.size - whole]
    return values


def _fraction(values: ArrayLike) -> tuple[Float64, Float64]:
    """Return n and log(x / 2^n), for x / 2^n between the square roots of 1/2 and 2."""
    mantissas, exponents = np.frexp(np.asarray(values, np.float64))
    is_low = mantissas < math.sqrt(0.5)
    mantissas = np.where(is_low, 2 * mantissas, mantissas)
    f = (mantissas - 1) / (mantissas + 1)
    square, total = f * f, np.zeros_like(f)
    for k in range(_LOG_TERMS, -1, -1):
        total = total * square + 1 / (2 * k + 1)
    return (exponents - is_low).astype(np.float64), 2 * f * total


def log(values: ArrayLike) -> Float64:
    """Return the natural logarithms of numbers `[...]` above 0, float64; -inf for 0."""
    whole, part = _fraction(values)
    found = whole * _LN_2_HIGH + (part + whole * _LN_2_LOW)
    return np.where(np.asarray(values) == 0, -np.inf, found)


def log2(values: ArrayLike) -> Float64:
    """Return the logarithms to the base 2 of numbers above 0, float64; -inf for 0.

    Those of powers of 2 are exact.
    """
    whole, part = _fraction(values)
    return np.where(np.asarray(values) == 0, -np.inf, whole + part * _LOG2_E)


def exp2(values: ArrayLike) -> Float64:
    """Return 2 to the powers of numbers `[...]`, float64; exact for integers."""
    own = np.asarray(values, np.float64)
    whole = np.rint(own)
    r = (own - whole) * _LN_2
    total = np.zeros_like(r)
    for k in range(_EXP_TERMS, -1, -1):
        total = total * r + 1 / math.factorial(k)
    return np.ldexp(total, np.clip(whole, -2000, 2000).astype(np.int32))
