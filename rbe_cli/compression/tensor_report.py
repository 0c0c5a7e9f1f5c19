"""Report the size and the errors of each tensor of a file."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.error_cost import InputFactor
from rbe_cli.compression.metric import as_matrix
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.runtime.arrays import sum_of_squares

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class TensorReport:
    """The report on one tensor of a file, in the fields of docs/json.md.

    Attributes:
        relative_error: norm of the error / norm of the tensor (Frobenius norms).
        relative_output_error: the same of the layer's outputs on calibration text, or None if
            it was not measured.
    """

    name: str
    shape: tuple[int, ...]
    codec: str
    bits_per_weight: float
    relative_error: float
    relative_output_error: float | None


def report(stored: StoredTensor, tensor: Float32, inputs: InputFactor | None) -> TensorReport:
    """Compare a tensor with the values that its bytes decode to.

    Args:
        stored: the tensor of the file.
        tensor: the tensor of the checkpoint, float32.
        inputs: the moment of the inputs of the matrix's layer; None if there is no such layer.
    """
    change = tensor - stored.decode()
    norm = math.sqrt(sum_of_squares(tensor))
    output_error = None
    if inputs is not None:
        error = inputs.output_power(as_matrix(stored.name, change))
        error /= max(inputs.output_power(as_matrix(stored.name, tensor)), 1e-30)
        output_error = float(np.sqrt(max(error, 0.0)))
    return TensorReport(
        stored.name,
        stored.shape,
        stored.codec,
        8 * len(stored.data) / tensor.size,
        math.sqrt(sum_of_squares(change)) / max(norm, 1e-30),
        output_error,
    )
