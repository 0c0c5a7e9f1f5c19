"""What became of each tensor of a checkpoint in a file."""

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
    """One tensor of the file; errors are relative Frobenius norms, None where not measured."""

    name: str
    shape: tuple[int, ...]
    codec: str
    bits_per_weight: float
    relative_error: float
    relative_output_error: float | None


def report(stored: StoredTensor, tensor: Float32, inputs: InputFactor | None) -> TensorReport:
    """Compare a tensor with what its bytes decode to.

    Args:
        stored: in the file.
        tensor: in the checkpoint.
        inputs: of the layer that the matrix belongs to; None if there is no such layer.
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
