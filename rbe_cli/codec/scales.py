"""The basis part of a block: row and column log-scales, sigma_ij = r_i c_j.

Scales are kept in eighths of an octave, which costs under .001 bit a weight, and serve
only as the probability model of the entropy coder; they are no step sizes. A row's
scale is measured while it is quantised (codec/feedback.py), a column's before.
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy_model import LEVELS_PER_OCTAVE

_SWEEPS = 4
_SPREAD = 6 * LEVELS_PER_OCTAVE  # columns further from the mean are clipped to it


def column_levels(weights: NDArray[np.float32]) -> NDArray[np.int16]:
    """Log-scales of the columns of `[K, B]`, relative to their mean, int16 `[B]`.

    Alternates between the root mean squares of rows and columns, each divided by the
    other's, which is the maximum-likelihood fit of sigma_ij = r_i c_j to Gaussian weights.
    """
    power = weights.astype(np.float64) ** 2 + 1e-30
    columns = np.ones(weights.shape[1])
    for _ in range(_SWEEPS):
        rows = (power / columns).mean(axis=1, keepdims=True)  # [K, 1]
        columns = (power / rows).mean(axis=0)  # [B]
    levels = np.rint(0.5 * LEVELS_PER_OCTAVE * np.log2(columns))
    return np.clip(levels - np.rint(levels.mean()), -_SPREAD, _SPREAD).astype(np.int16)


def scale_model(levels: NDArray[np.int16]) -> tuple[int, int]:
    """(mean, level) of the entropy model under which the log-scales themselves are coded."""
    deviation = max(float(levels.std()), 0.3)
    # The model's integers are even (z = 0): a deviation of 1 is one of 2 in its units.
    return int(np.rint(levels.mean())), int(np.rint(LEVELS_PER_OCTAVE * np.log2(2 * deviation)))
