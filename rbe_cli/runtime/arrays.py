"""The types of what kernels take."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Floating = NDArray[np.floating[Any]]
Int64 = NDArray[np.int64]
Integers = NDArray[np.integer[Any]]
PanelValues = NDArray[np.uint8]  # weights/panel_layout.py
Mask = NDArray[np.bool_]


class Norm(NamedTuple):
    """A LayerNorm's parameters.

    Attributes:
        gamma, beta: `[d]`.
        eps: added to the variance.
    """

    gamma: Floating
    beta: Floating
    eps: float


def sum_of_squares(values: Floating) -> float:
    """Summed in float64, in which the squares of any float32 are finite."""
    flat = values.reshape(-1)
    return float(np.einsum("n,n->", flat, flat, dtype=np.float64))
