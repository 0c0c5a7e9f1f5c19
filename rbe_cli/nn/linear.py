"""A linear layer."""

import numpy as np

from rbe_cli.kernels.arrays import Float32
from rbe_cli.kernels.coded import CodedMatrix
from rbe_cli.kernels.panel import PanelMatrix
from rbe_cli.kernels.table import Kernels
from rbe_cli.nn.observer import GradientObserver, Observer

Weight = Float32 | PanelMatrix | CodedMatrix
"""A matrix `[K, N]`: dense float32, integers or levels in panels, or still entropy-coded."""


class Linear:
    """y = x W + b, with W `[K, N]` and b `[N]` (zero if None).

    Args:
        name: the weight's canonical name, for observers.
        weight: dense matrices are multiplied by numpy, panels by `kernels.matmul`.
    """

    def __init__(self, name: str, weight: Weight, bias: Float32 | None, kernels: Kernels) -> None:
        self.name = name
        self.weight = weight
        self.bias = np.zeros(weight.shape[1], np.float32)
        if bias is not None:
            self.bias[:] = bias
        self._kernels = kernels

    def __call__(self, x: Float32, observe: Observer | None = None) -> Float32:
        """`[..., K]` -> `[..., N]`."""
        rows, columns = self.weight.shape
        tokens = np.ascontiguousarray(x).reshape(-1, rows)
        if observe is not None:
            observe(self.name, tokens)
        out = np.empty((len(tokens), columns), np.float32)
        weight = self.decoded()
        if isinstance(weight, PanelMatrix):
            self._kernels.matmul(tokens, weight, self.bias, out)
        else:
            np.matmul(tokens, weight, out=out)
            out += self.bias
        return out.reshape(*x.shape[:-1], columns)

    def backward(
        self, x: Float32, grad: Float32, observe: GradientObserver | None = None
    ) -> Float32:
        """Gradient `[..., K]` with respect to x, from `[..., N]`, that of the output at x."""
        if observe is not None:
            observe(self.name, x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1]))
        weight = self.decoded()
        return grad @ (weight.dense() if isinstance(weight, PanelMatrix) else weight).T

    def decoded(self) -> Float32 | PanelMatrix:
        """The weight as it can be multiplied by."""
        return self.weight.decoded() if isinstance(self.weight, CodedMatrix) else self.weight
