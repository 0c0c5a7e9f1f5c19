"""Take a model's tensors apart into the arrays that can be trained, and join them again."""

from collections.abc import Mapping

import numpy as np

from rbe_cli.model.tensor_names import ROTATION
from rbe_cli.runtime.arrays import Floating
from rbe_cli.weights import weight_forms as weights
from rbe_cli.weights.weight_forms import Weight


def split(tensors: Mapping[str, Weight]) -> dict[str, Floating]:
    """Return the parameters of what `Gpt2` is made of, as `join` takes them.

    Vectors and dense matrices keep their names; those of compressed matrices are told apart by
    suffixes (`weights/weight_forms.py`), as in `h.0.mlp.c_fc.weight.column_steps`. The rotation
    of the residual stream is not trained.
    """
    return {
        f"{name}{suffix}": values
        for name, weight in tensors.items()
        for suffix, values in weights.parameters(weight).items()
        if name != ROTATION
    }


def join(tensors: Mapping[str, Weight], values: Mapping[str, Floating]) -> dict[str, Weight]:
    """Return the tensors with other values of all parameters."""
    return {
        name: weight
        if name == ROTATION
        else weights.with_parameters(
            weight, {suffix: values[f"{name}{suffix}"] for suffix in weights.parameters(weight)}
        )
        for name, weight in tensors.items()
    }


def float64(tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    """Return the tensors with parameters in float64, in which the reference kernels compute."""
    return join(tensors, {name: own.astype(np.float64) for name, own in split(tensors).items()})
