"""How a tensor is written to a file after it was changed in memory.

An array is stored exactly. A matrix of integers keeps its integers: only its steps are stored
anew, in the levels that its codec has for them.
"""

from dataclasses import replace

import numpy as np

from rbe_cli.codec.codec import CodecOptions, EncodingJob
from rbe_cli.codec.registry import codec_named
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.codec.vectors.vector_codecs import SCALAR
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import UsageError
from rbe_cli.model.tensor_names import is_embedding, is_matrix
from rbe_cli.runtime.arrays import Float32
from rbe_cli.weights.compressed_matrix import CompressedMatrix
from rbe_cli.weights.weight_forms import Weight, dense


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
    if isinstance(weight, CompressedMatrix):
        codec = codec_named(before.codec)
        try:
            data = codec.with_parameters_of(before.data, before.matrix_shape, weight)
        except UsageError as error:
            raise UsageError(f"{before.name} cannot be saved: {error}") from error
        return replace(before, data=data)
    return _exact(before.name, as_stored(before.name, weight))


def _exact(name: str, values: Float32) -> StoredTensor:
    """Return the smallest form that keeps every value of an array."""
    first = values.flat[0]
    is_constant = not is_matrix(name) and bool((values == first).all())
    codec = SCALAR if is_constant else codec_named(dense_tensor.exact(values))
    payload = codec.encode(values, EncodingJob(CodecOptions(is_asked=True)))
    return StoredTensor(name, values.shape, *payload)
