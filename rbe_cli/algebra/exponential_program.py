"""Compute e^x of vectors, in products and sums alone, so that every CPU gives the same bits."""

import math
from typing import Any

import numpy as np

from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    LANES,
    as_floats,
    double_power_of_2,
    fused,
    larger,
    larger_double,
    load_doubles,
    load_floats,
    round_doubles,
    round_to_even,
    smaller,
    smaller_double,
    splat_double,
    splat_float,
    splat_int,
    store_doubles,
    store_floats,
    to_ints,
)

# Cephes' expf (Moshier 1992): x = n ln 2 + r with |r| <= ln(2) / 2; relative error 1e-7.
_LOG2_E = np.float32(1.44269504088896341)
_LN_2_HIGH, _LN_2_LOW = np.float32(-0.693359375), np.float32(2.12194440e-4)
_C2, _C3 = np.float32(5.0000001201e-1), np.float32(1.6666665459e-1)
_C4, _C5 = np.float32(4.1665795894e-2), np.float32(8.3334519073e-3)
_C6, _C7 = np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)
_LOWEST, _HIGHEST = np.float32(-87.3), np.float32(89)  # the latter has infinity's exponent
_ONE = np.float32(1)
# The same in float64, with Taylor's series; products of n with the high part are exact.
_LOG2_E_DOUBLE = math.log2(math.e)
_LN_2_HIGH_DOUBLE, _LN_2_LOW_DOUBLE = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOWEST_DOUBLE, _HIGHEST_DOUBLE = -708.0, 709.0
_SERIES = tuple(1 / math.factorial(k) for k in range(14))


@program_code
def exp(x: Any) -> Any:
    """Return e^x: 1e-38 for all x below -87.3, infinity above 88.37, NaN for NaN."""
    bounded = smaller(splat_float(_HIGHEST), larger(splat_float(_LOWEST), x))
    n = round_to_even(bounded * splat_float(_LOG2_E))
    r = fused(n, splat_float(_LN_2_LOW), fused(n, splat_float(_LN_2_HIGH), bounded))
    p = fused(splat_float(_C7), r, splat_float(_C6))
    p = fused(p, r, splat_float(_C5))
    p = fused(p, r, splat_float(_C4))
    p = fused(p, r, splat_float(_C3))
    p = fused(p, r, splat_float(_C2))
    power = as_floats((to_ints(n) + splat_int(127)) << splat_int(23))
    return fused(p, r * r, r + splat_float(_ONE)) * power


@program_code
def exp_doubles(x: Any) -> Any:
    """Return e^x of x limited to -708 and 709, NaN for NaN; relative error 3e-16."""
    lowest, highest = splat_double(_LOWEST_DOUBLE), splat_double(_HIGHEST_DOUBLE)
    bounded = smaller_double(highest, larger_double(lowest, x))
    n = round_doubles(bounded * splat_double(_LOG2_E_DOUBLE))
    r = bounded - n * splat_double(_LN_2_HIGH_DOUBLE) - n * splat_double(_LN_2_LOW_DOUBLE)
    p = splat_double(_SERIES[13])
    for k in range(12, -1, -1):
        p = p * r + splat_double(_SERIES[k])
    return p * double_power_of_2(n)


@program_code
def exponentials_program(arithmetic: Any, place: int, count: int, is_double: int) -> None:
    """Replace numbers at an address by e to their powers; `count` is a multiple of 16."""
    for i in range(0, count, LANES):
        if is_double:
            own = place + 8 * i
            store_doubles(own, exp_doubles(load_doubles(own)))
        else:
            own = place + 4 * i
            store_floats(own, exp(load_floats(own)))
