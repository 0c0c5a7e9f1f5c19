"""e^x in float32 as a polynomial that LLVM can put into vector lanes."""

import numpy as np

from rbe_cli.jit import jit

# Cephes' expf (Moshier 1992): x = n ln 2 + r with |r| <= ln(2) / 2; relative error 1e-7.
_LOG2_E = np.float32(1.44269504088896341)
_LN_2_HIGH, _LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C2 = np.float32(5.0000001201e-1)
_C3 = np.float32(1.6666665459e-1)
_C4 = np.float32(4.1665795894e-2)
_C5 = np.float32(8.3334519073e-3)
_C6 = np.float32(1.3981999507e-3)
_C7 = np.float32(1.9875691500e-4)
_ONE, _HALF = np.float32(1), np.float32(0.5)
_LOWEST, _HIGHEST = np.float32(-87.3), np.float32(89)  # the latter has infinity's exponent bits
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)


@jit()
def exp(x: np.float32) -> np.float32:
    """e^x for float32 x; 1e-38 for all x below -87.3, infinity above 88.3."""
    x = min(max(x, _LOWEST), _HIGHEST)
    n = np.floor(x * _LOG2_E + _HALF)
    r = x - n * _LN_2_HIGH - n * _LN_2_LOW
    p = ((((_C7 * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
    power_bits = np.int32(np.int32(np.int32(n) + _EXPONENT_BIAS) << _MANTISSA_BITS)
    return (p * r * r + r + _ONE) * power_bits.view(np.float32)
