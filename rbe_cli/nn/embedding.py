"""A table of vectors, looked up by index."""

from rbe_cli.kernels.arrays import Float32, Int64
from rbe_cli.kernels.panel import PanelMatrix


class Embedding:
    """Vectors of `[n_embd]`, stored as the columns of `weight` `[n_embd, rows]`."""

    def __init__(self, weight: Float32 | PanelMatrix) -> None:
        self.weight = weight

    def __call__(self, indices: Int64) -> Float32:
        """`[...]`, each from 0 to rows - 1 -> `[..., n_embd]`."""
        if isinstance(self.weight, PanelMatrix):
            return self.weight.columns(indices.ravel()).reshape(*indices.shape, -1)
        return self.weight.T[indices]
