"""Name a model's weights, and check that they fit its configuration."""

from collections.abc import Mapping
from typing import cast

from rbe_cli.codec.stream_rotation import StreamRotation
from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import (
    ROTATION,
    is_embedding,
    is_layer_norm,
    stored_shapes,
    tensor_shapes,
)
from rbe_cli.nn.layer_norm_parameters import CompressedVector
from rbe_cli.nn.shape_checks import check_shape
from rbe_cli.weights.weight_forms import Weight, dense

NamedWeights = Mapping[str, Weight | CompressedVector]
"""Canonical name -> vector, dense matrix or compressed matrix.

All matrices are `[inputs, outputs]`, so embeddings and head are `[n_embd, rows]`. A model whose
residual stream was rotated has the matrix `ROTATION`, too.
"""


def check_weights(config: Gpt2Config, weights: NamedWeights) -> None:
    """Compare weights with what a configuration asks for.

    Args:
        config: shapes and options.
        weights: gamma and beta of a LayerNorm may be a number for all elements.

    Raises:
        UsageError: a tensor is missing, or has another shape than the configuration says.
    """
    for name, stored in tensor_shapes(config).items():
        if name not in weights:
            raise UsageError(f"the model needs a tensor {name}")
        found = getattr(weights[name], "shape", ())
        if is_layer_norm(name) and found == ():
            continue
        shape = stored[::-1] if is_embedding(name) else stored
        check_shape(f"the tensor {name}", found, shape)
    if ROTATION in weights:
        shape = stored_shapes(config)[ROTATION]
        check_shape(f"the tensor {ROTATION}", getattr(weights[ROTATION], "shape", ()), shape)


def rotation_of(weights: NamedWeights) -> StreamRotation | None:
    """Return the rotation of the residual stream; None if it was not rotated."""
    if ROTATION not in weights:
        return None
    return StreamRotation.of_coded(dense(cast(Weight, weights[ROTATION])))
