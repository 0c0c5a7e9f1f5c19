"""Define what every scheme makes of a matrix."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


class QuantisedMatrix(NamedTuple):
    """Hold a matrix after quantisation.

    Attributes:
        weights: as they decode, float32 `[K inputs, N outputs]`.
        bits: that the whole matrix takes, scales and zeros included.
    """

    weights: Float32
    bits: int
