"""Make the matrices of transforms of short signals: DCT-II, Haar and CDF 9/7 wavelets.

A transform of a block is separable: coefficients = T_rows @ block @ T_columns.T. The wavelets
take all their levels along one axis before the other (the standard decomposition).
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Split = Callable[[Float64], tuple[Float64, Float64]]

TRANSFORMS = ("dct", "haar", "cdf97")
_SHORTEST = 8  # shortest signal that CDF 9/7 splits
# Daubechies and Sweldens, Factoring wavelet transforms into lifting steps (1998), section 7.7.
_LIFTING = ((-1.586134342059924, -0.052980118572961), (0.882911075530934, 0.443506852043971))
_LOW_GAIN = 1.149604398860241


@lru_cache(maxsize=64)
def transform(name: str, length: int) -> tuple[Float64, Float64]:
    """Return one of `TRANSFORMS` and its inverse, each float64 `[length, length]`."""
    if name == "cdf97":
        forward = _levels(_cdf97_split, length, _SHORTEST)
        # It is biorthogonal, and well conditioned.
        return forward, np.asarray(np.linalg.inv(forward), np.float64)
    forward = _dct(length) if name == "dct" else _levels(_haar_split, length, 2)
    return forward, forward.T


def _dct(length: int) -> Float64:
    """Return the orthonormal DCT-II."""
    frequency = np.arange(length)[:, None]
    matrix = np.cos(np.pi / length * frequency * (np.arange(length) + 0.5))
    matrix *= np.sqrt(2 / length)
    matrix[0] /= np.sqrt(2)
    return matrix


def _levels(split: Split, length: int, shortest: int) -> Float64:
    """Split the low half repeatedly. The rows are ordered from coarse to fine details."""
    low, details = np.eye(length), []
    while len(low) >= shortest:
        low, high = split(low)
        details.append(high)
    return np.concatenate([low, *reversed(details)])


def _haar_split(signal: Float64) -> tuple[Float64, Float64]:
    """Return (low, high) of `[n, ...]`, orthonormal. A last sample without a partner is low."""
    pairs = len(signal) // 2
    even, odd = signal[: 2 * pairs : 2], signal[1::2]
    low = np.concatenate([(even + odd) / np.sqrt(2), signal[2 * pairs :]])
    return low, (even - odd) / np.sqrt(2)


def _cdf97_split(signal: Float64) -> tuple[Float64, Float64]:
    """Return (low, high) of `[n >= 2, ...]` by lifting. The signal is mirrored at its ends."""
    low, high = signal[::2].copy(), signal[1::2].copy()
    for predict, update in _LIFTING:
        right = low[1:] if len(low) > len(high) else np.concatenate([low[1:], low[-1:]])
        high += predict * (low[: len(high)] + right)
        around = np.concatenate([high[:1], high, high[-1:]])
        low += update * (around[: len(low)] + around[1 : 1 + len(low)])
    return low * _LOW_GAIN, high / _LOW_GAIN
