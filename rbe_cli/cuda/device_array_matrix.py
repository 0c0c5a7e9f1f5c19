"""Hold a matrix on a GPU as an array, where it is stored without compression."""

from typing import Any

import numpy as np
from numba import cuda

from rbe_cli.cuda.dense_product import COPY_THREADS, SIDE, copy_columns, multiply_dense
from rbe_cli.cuda.device_matrix import DeviceMatrix, Outputs
from rbe_cli.runtime.arrays import Floating


class DeviceArrayMatrix(DeviceMatrix):
    """Hold an array `[K, N]` in float32."""

    def __init__(self, weight: Floating) -> None:
        self.shape = (weight.shape[0], weight.shape[1])
        self._weight = cuda.to_device(np.ascontiguousarray(weight, np.float32))
        self._lanes = cuda.to_device(np.arange(self.shape[1], dtype=np.int32))
        self._steps = cuda.to_device(np.ones(self.shape[1], np.float32))

    @property
    def nbytes(self) -> int:
        """Return the bytes of the matrix in the GPU's memory."""
        return int(self._weight.nbytes + self._lanes.nbytes + self._steps.nbytes)

    def columns(self, indices: Any, out: Any) -> None:
        """Set out `[n, K]` to the columns of int32 indices `[n]`."""
        copy_columns.launch(indices.shape[0], COPY_THREADS, self._weight, indices, out)

    def _multiply(self, x: Any, outputs: Outputs) -> None:
        blocks = -(-x.shape[0] // SIDE) * -(-self.shape[1] // SIDE)
        rest = outputs.arguments(self._lanes, self._steps, self._steps, 0)
        multiply_dense.launch(blocks, SIDE * SIDE, x, self._weight, *rest)
