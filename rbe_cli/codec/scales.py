"""Fit the log-scales of a block: of its rows and columns, and of its columns' steps.

The entropy coder models the integers as Gaussian with standard deviation sigma_ij = r_i c_j, fitted
to the weights in units of their steps (columns), and then to the integers (rows). The levels of
columns must be known first, because the order of the trellis follows from them. All scales are
rounded to eighths of an octave, which costs less than .001 bit per weight. A log-scale in eighths
is called a level.
"""

import math

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.elementary import exp2, log2
from rbe_cli.codec.entropy.entropy_model import LARGEST_INT16, LEVELS_PER_OCTAVE, MAX_INTEGER

Levels = NDArray[np.int16]
_SWEEPS = 4
_SPREAD = 6 * LEVELS_PER_OCTAVE  # levels of columns further from the mean are clipped
_WIDE = 3.0  # standard deviations of a column that the integers should hold
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_INTEGER_NOISE = 0.02  # assumed variance of a row of zeros
_LEAST_POWER = 1e-30  # of a weight


def column_levels(weights: NDArray[np.float32]) -> Levels:
    """Return the levels of the columns of weights `[K, B]`, relative to the mean, int16 `[B]`.

    Rows and columns are fitted in turn, to mean squares divided by the scales of the other. This
    is the maximum-likelihood fit of sigma_ij = r_i c_j to Gaussian values.
    """
    power = weights.astype(np.float64) ** 2 + _LEAST_POWER
    columns = np.ones(weights.shape[1])
    for _ in range(_SWEEPS):
        rows = np.sum(power * (1 / columns), axis=1) / columns.size  # [K]
        columns = product((1 / rows)[None], power)[0] / rows.size  # [B]
    return centred(np.rint(0.5 * LEVELS_PER_OCTAVE * log2(columns)))


def centred(levels: NDArray[np.number]) -> Levels:
    """Return levels of columns relative to their mean, and limited, int16 `[B]`."""
    return np.clip(levels - np.rint(levels.mean()), -_SPREAD, _SPREAD).astype(np.int16)


def row_levels(integers: NDArray[np.int32], columns: Levels) -> Levels:
    """Return the levels of the rows of integers `[K, B]` whose columns have levels, int16 `[K]`."""
    power = integers.astype(np.float64) ** 2 + _INTEGER_NOISE
    rows = np.sum(power * exp2(-columns / (0.5 * LEVELS_PER_OCTAVE)), axis=1) / columns.size
    return np.rint(0.5 * LEVELS_PER_OCTAVE * log2(rows)).astype(np.int16)


def step_levels(diagonal: NDArray[np.float64], unit: float) -> Levels:
    """Return the levels of the columns' steps, 1 / sqrt(C_n / unit), int16 `[B]`."""
    levels = -0.5 * LEVELS_PER_OCTAVE * log2(diagonal / unit)
    return np.rint(levels).astype(np.int16)


def least_step_levels(weights: NDArray[np.float32], step: float, largest: int) -> Levels:
    """Return the step levels at which few weights `[K, B]` of a column exceed `largest` steps."""
    deviations = np.sqrt(np.mean(np.square(weights, dtype=np.float64), axis=0))  # [B]
    levels = LEVELS_PER_OCTAVE * log2(_WIDE * deviations / (largest * step))
    return np.ceil(np.clip(levels, np.iinfo(np.int16).min, None)).astype(np.int16)


def step_level_bounds(weights: NDArray[np.float32], step: float) -> tuple[Levels, int]:
    """Return the smallest level of each column's step, int16 `[B]`, and the largest of all.

    At the smallest level, no weight `[K, B]` of the column needs more than half of the range of
    the integers. The other half is left for error feedback. At the largest level, the largest
    integer that a file can hold times the step is within float32.
    """
    largest = np.abs(weights).max(axis=0, initial=0.0).astype(np.float64)  # [B]
    least = np.ceil(LEVELS_PER_OCTAVE * log2(2 * largest / (MAX_INTEGER * step)))
    most = math.floor(LEVELS_PER_OCTAVE * log2(_FLOAT32_MAX / (LARGEST_INT16 * step)))
    limits = np.iinfo(np.int16)
    return np.clip(least, limits.min, limits.max).astype(np.int16), min(most, limits.max)


def steps(step: float, levels: Levels, resolution: int = LEVELS_PER_OCTAVE) -> NDArray[np.float32]:
    """Return the columns' steps, float32 `[B]`, for levels of 1 / `resolution` octave."""
    # In float64: numpy's exp2 of float32 errs in the last bit on CPUs with AVX-512, not on others.
    powers = np.exp2(levels.astype(np.float64) / resolution).astype(np.float32)
    return np.float32(step) * powers


def scale_model(levels: Levels) -> tuple[int, int]:
    """Return (mean, level) of the entropy model that codes the levels themselves."""
    deviation = max(float(levels.std()), 1 / 16)
    # The model's integers are even (z = 0), so a deviation of 1 level is 2 in its units.
    return int(np.rint(levels.mean())), int(np.rint(LEVELS_PER_OCTAVE * log2(2 * deviation)))
