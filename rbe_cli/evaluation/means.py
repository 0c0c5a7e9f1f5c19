"""Compute the mean of a number measured at every prediction, and its standard error.

Predictions within one window share their context, so they are not independent draws. Where
there are enough windows, each window is one unit: with G windows, S_g the sum and n_g the number
of predictions in window g, n their total and m the mean, the squared standard error is

    G / (G - 1) * sum over g of (S_g - m * n_g)^2 / n^2

(the variance of a ratio estimator; Cochran 1977, "Sampling Techniques", chapter 6). With fewer
windows each prediction is a unit of its own. The formula is then the usual s^2 / n, which is too
small where neighbouring predictions are alike.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.elementary import exp_in_place

Float64 = NDArray[np.float64]
Unit = Literal["window", "token"]
FEWEST_WINDOWS = 5  # whose differences say enough of how windows differ


@dataclass(frozen=True)
class Mean:
    """Hold a mean and its standard error, which is None if there was a single unit."""

    value: float
    error: float | None

    def exp(self) -> "Mean":
        """Return the exponential of the mean; its error is right to first order.

        Where it is more than a float holds, it is infinite.
        """
        value = math.inf if self.value > 709 else float(exp_in_place(np.array([self.value]))[0])
        return Mean(value, None if self.error is None else value * self.error)


def unit_of(windows: int) -> Unit:
    """Return the unit of which standard errors count the independent draws."""
    return "window" if windows >= FEWEST_WINDOWS else "token"


def mean_of(values: Float64, counts: NDArray[np.int64]) -> Mean:
    """Return the mean of `values` over predictions.

    Args:
        values: one for each prediction, `[n]`, window after window.
        counts: predictions of each window, `[windows]`, none of them 0; their sum is n.
    """
    mean = float(values.mean())
    if unit_of(len(counts)) == "token":
        counts = np.ones(len(values), np.int64)
    units = len(counts)
    if units < 2:
        return Mean(mean, None)
    starts = np.cumsum(counts) - counts
    residuals = np.add.reduceat(values - mean, starts)  # [units]
    squares = units / (units - 1) * float(np.sum(residuals**2))
    return Mean(mean, math.sqrt(squares) / len(values))
