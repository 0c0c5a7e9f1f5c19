"""The types of what kernels take."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Integers = NDArray[np.integer[Any]]
PanelValues = NDArray[np.uint8]  # codec/panels.py
InPlace = Callable[[Float32], None]
Scaling = Callable[[Float32, Float32], None]  # (x, grad): scales grad in place
