"""Name a model's weights, and check that they fit its configuration."""

from collections.abc import Mapping

from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding, is_layer_norm, tensor_shapes
from rbe_cli.nn.layer_norm_parameters import CompressedVector
from rbe_cli.nn.shape_checks import check_shape
from rbe_cli.weights.weight_forms import Weight

NamedWeights = Mapping[str, Weight | CompressedVector]
"""Canonical name -> vector, dense matrix or compressed matrix.

All matrices are `[inputs, outputs]`, so embeddings and head are `[n_embd, rows]`.
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
