"""How a tensor is written to a file after it was changed in memory.

An array is stored exactly. A matrix of integers keeps its integers: only its steps are stored
anew, in the levels that its codec has for them.
"""

from dataclasses import replace

import numpy as np

from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix
from rbe_cli.codec.fixed.fixed_matrix import FixedMatrix
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import UsageError
from rbe_cli.model.tensor_names import is_embedding, is_matrix
from rbe_cli.runtime.arrays import Float32
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.weight_forms import Weight, dense

_STEPS_AN_OCTAVE = 8  # of the codec `fixed`


def as_stored(name: str, weight: Weight) -> Float32:
    """Return a copy of a weight's values as a checkpoint holds them, float32."""
    values = dense(weight)
    return np.array(values.T if is_embedding(name) else values, np.float32, order="C")


def stored_form(before: StoredTensor, weight: Weight) -> StoredTensor:
    """Return what a file holds of a tensor that was changed.

    Args:
        before: the tensor of the file.
        weight: what the model holds now.

    Raises:
        UsageError: the tensor's codec cannot store such steps; the message names the tensor.
    """
    if isinstance(weight, ClassicMatrix):
        return replace(before, codec="classic", data=weight.to_bytes())
    if isinstance(weight, PanelMatrix) and before.codec == "ectcq":
        return replace(before, data=_ectcq_steps(before, weight).to_bytes())
    if isinstance(weight, PanelMatrix) and before.codec == "fixed":
        return replace(before, data=_fixed_steps(before, weight).to_bytes())
    return _exact(before.name, as_stored(before.name, weight))


def _exact(name: str, values: Float32) -> StoredTensor:
    """Return the smallest form that keeps every value of an array."""
    first = values.flat[0]
    if not is_matrix(name) and bool((values == first).all()):
        return StoredTensor(name, values.shape, "scalar", np.float32(first).tobytes())
    codec = dense_tensor.exact(values)
    return StoredTensor(name, values.shape, codec, dense_tensor.encode(values, codec))


def _ectcq_steps(before: StoredTensor, weight: PanelMatrix) -> EncodedMatrix:
    """Return the same integers with the weight's column steps, rounded to their levels."""
    if not (weight.row_steps == 1).all():
        raise UsageError(
            f"{before.name} cannot be saved: the codec ectcq stores steps of columns, "
            "and steps of rows were changed"
        )
    encoded = EncodedMatrix.from_bytes(before.data, before.matrix_shape)
    steps = np.concatenate([own for _, _, own in encoded.decoded_blocks()])
    return encoded.rescaled((weight.column_steps / steps).astype(np.float32))


def _fixed_steps(before: StoredTensor, weight: PanelMatrix) -> FixedMatrix:
    """Return the same codes with the weight's steps, rounded to their levels."""
    fixed = FixedMatrix.from_bytes(before.data, before.matrix_shape)
    unit = float(np.float32(weight.column_steps.max()))
    levels = []
    for steps in (weight.row_steps, weight.column_steps / unit):
        rounded = np.rint(_STEPS_AN_OCTAVE * np.log2(steps))
        if rounded.min() < -128 or rounded.max() > 127:
            raise UsageError(
                f"{before.name} cannot be saved: its steps span more than the codec fixed stores"
            )
        levels.append(rounded.astype(np.int8))
    return replace(fixed, row_levels=levels[0], column_levels=levels[1], unit=unit)
