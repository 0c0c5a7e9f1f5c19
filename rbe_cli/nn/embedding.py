"""Look vectors up in a table."""

from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.nn.layer import Layer
from rbe_cli.nn.memory_usage import MemoryUsage
from rbe_cli.nn.observer import GradientObserver
from rbe_cli.nn.shape_checks import check_shape
from rbe_cli.runtime.arrays import Floating, Int64
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.weight_forms import Weight, decoded, kept_bytes


class Embedding(Layer):
    """Look up vectors `[n_embd]`, stored as the columns of `weight` `[n_embd, rows]`.

    Args:
        name: the weight's canonical name.
        weight: dense or compressed.
        kernels: lend memory.

    Raises:
        UsageError: the weight is not a matrix.
    """

    def __init__(self, name: str, weight: Weight, kernels: Kernels) -> None:
        super().__init__(name, kernels)
        check_shape(f"{name}: the weight", weight.shape, ("n_embd", "rows"))
        self.weight = weight

    def __call__(self, indices: Int64) -> Floating:
        """Return the vectors `[..., n_embd]` of indices `[...]`.

        Raises:
            UsageError: an index is not between 0 and rows - 1.
        """
        rows = self.weight.shape[1]
        outside = indices[(indices < 0) | (indices >= rows)]
        if outside.size:
            raise UsageError(f"{self.name}: index {outside[0]} is outside the table of {rows} rows")
        with self._counted(lambda: 0):
            weight = decoded(self.weight)
            if isinstance(weight, PanelMatrix):
                return weight.columns(indices.ravel()).reshape(*indices.shape, -1)
            return weight.T[indices]

    def backward(
        self, indices: Int64, grad: Floating, observe: GradientObserver | None = None
    ) -> None:
        """Show the gradient of what was looked up to an observer.

        Args:
            indices: `[...]`, as in the forward pass.
            grad: `[..., n_embd]`, with respect to the vectors that were found.
            observe: sees both.

        Raises:
            UsageError: the gradient has a wrong shape.
        """
        expected = (*indices.shape, self.weight.shape[0])
        check_shape(f"{self.name}: the gradient of the output", grad.shape, expected)
        with self._counted(lambda: 0, backward=True):
            if observe is not None:
                observe.embedding(self, indices, grad)

    def memory_usage(self) -> MemoryUsage:
        """Return what the table takes."""
        size, rows = self.weight.shape
        return MemoryUsage(self.weight.nbytes, 4 * size * rows, kept_bytes(self.weight))
