"""Bring weight matrices to the GPU, in whatever form they are."""

import numpy as np

from rbe_cli.cuda.device_array_matrix import DeviceArrayMatrix
from rbe_cli.cuda.device_matrix import DeviceMatrix
from rbe_cli.cuda.device_panels import DevicePanels
from rbe_cli.cuda.rounded_inputs import RoundedInputs
from rbe_cli.weights.weight_forms import Weight, decoded


def on_device(weight: Weight, inputs: RoundedInputs | None = None) -> DeviceMatrix:
    """Copy a matrix `[K, N]` to the GPU: panels as they are, all else as float32.

    Args:
        weight: the matrix.
        inputs: memory for the rounded inputs of its products, which the matrices of a model
            share; None for memory of its own.

    Raises:
        UsageError: kernels do not know the panels.
        PayloadError: the bytes of an entropy-coded matrix are wrong.
    """
    found = decoded(weight)
    if isinstance(found, np.ndarray):
        return DeviceArrayMatrix(found)
    return DevicePanels(found, inputs or RoundedInputs())
