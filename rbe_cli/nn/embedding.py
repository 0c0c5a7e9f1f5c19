"""A table of vectors, looked up by index."""

from rbe_cli.runtime.arrays import Floating, Int64
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.weight_forms import Weight, decoded


class Embedding:
    """Vectors of `[n_embd]`, stored as the columns of `weight` `[n_embd, rows]`.

    Args:
        name: the weight's canonical name.
        weight: dense or in panels.
    """

    def __init__(self, name: str, weight: Weight) -> None:
        self.name = name
        self.weight = weight

    def __call__(self, indices: Int64) -> Floating:
        """`[...]`, each from 0 to rows - 1 -> `[..., n_embd]`."""
        weight = decoded(self.weight)
        if isinstance(weight, PanelMatrix):
            return weight.columns(indices.ravel()).reshape(*indices.shape, -1)
        return weight.T[indices]
