"""Define the types of the arrays that kernels take."""

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
    """Hold a LayerNorm's parameters.

    Attributes:
        gamma, beta: `[d]`.
        eps: added to the variance.
    """

    gamma: Floating
    beta: Floating
    eps: float


def sum_of_squares(values: Floating) -> float:
    """Return the sum of squares, in float64, where the square of any float32 is finite."""
    flat = values.reshape(-1)
    return float(np.einsum("n,n->", flat, flat, dtype=np.float64))
