"""Arrays on the (simulated) device, for tests."""

import numpy as np
from numba import cuda


def on_device(*arrays):
    """Copies of arrays, on the device."""
    return [cuda.to_device(np.ascontiguousarray(own)) for own in arrays]


def poisoned(shape, kind=np.float32):
    """An array of NaN that a kernel is to fill."""
    return cuda.to_device(np.full(shape, np.nan, kind))
