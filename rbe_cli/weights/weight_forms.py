"""Treat a weight matrix in whatever form it has: dense, or one of the compressed forms.

A dense matrix is its own parameter. In a compressed one the integers are fixed; what can be
trained are the steps that they are multiplied by, or what the classic scheme stores.
"""

from collections.abc import Mapping

import numpy as np

from rbe_cli.runtime.arrays import Floating
from rbe_cli.weights.compressed_matrix import CompressedMatrix
from rbe_cli.weights.panel_matrix import PanelMatrix

Weight = Floating | CompressedMatrix
"""A matrix `[K, N]`: an array, or a compressed form."""


def decoded(weight: Weight) -> Floating | PanelMatrix:
    """Return the matrix as it can be multiplied by."""
    return weight if isinstance(weight, np.ndarray) else weight.decoded()


def dense(weight: Weight) -> Floating:
    """Return all weights, `[K, N]`."""
    found = decoded(weight)
    return found if isinstance(found, np.ndarray) else found.dense()


def is_packed(weight: Weight) -> bool:
    """Return whether kernels multiply by the compressed form, some 256 tokens at a time."""
    return not isinstance(weight, np.ndarray) and weight.is_packed


def kept_bytes(weight: Weight) -> int:
    """Return the bytes of a decoded copy that is kept beside a compressed form."""
    return 0 if isinstance(weight, np.ndarray) else weight.kept_bytes


def parameters(weight: Weight) -> dict[str, Floating]:
    """Return what can be trained, by the suffix of its name; a dense matrix has none."""
    return {"": weight} if isinstance(weight, np.ndarray) else weight.parameters()


def with_parameters(weight: Weight, values: Mapping[str, Floating]) -> Weight:
    """Return the same matrix with other values of all that `parameters` names."""
    return values[""] if isinstance(weight, np.ndarray) else weight.with_parameters(values)


def parameter_gradients(weight: Weight, grad: Floating) -> dict[str, Floating]:
    """Return the gradients of what `parameters` names, from that of the weights `[K, N]`."""
    return {"": grad} if isinstance(weight, np.ndarray) else weight.parameter_gradients(grad)
