"""A table of vectors, looked up by index."""

from rbe_cli.kernels.arrays import Floating, Int64
from rbe_cli.kernels.panel import PanelMatrix
from rbe_cli.nn.weight import Weight, decoded


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
