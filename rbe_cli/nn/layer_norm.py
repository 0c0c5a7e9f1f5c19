"""Layer normalisation."""

import numpy as np

from rbe_cli.kernels.arrays import Float32
from rbe_cli.kernels.table import Kernels
from rbe_cli.nn.observer import GradientObserver


class LayerNorm:
    """(x - mean) / sqrt(variance + eps) * gamma + beta over the last axis (Ba et al. 2016).

    The variance is the biased one.

    Args:
        name: gamma's canonical name, for observers.
        gamma, beta: `[d]`.
        eps: added to the variance.
    """

    def __init__(
        self, name: str, gamma: Float32, beta: Float32, eps: float, kernels: Kernels
    ) -> None:
        self.name = name
        # Copies, as the kernels would be compiled again for read-only views of a file.
        self.gamma = np.array(gamma, np.float32)
        self.beta = np.array(beta, np.float32)
        self.eps = eps
        self._kernels = kernels

    def __call__(self, x: Float32) -> Float32:
        """`[..., d]` -> `[..., d]`."""
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        return self._normalise(rows, self.gamma, self.beta).reshape(x.shape)

    def backward(
        self, x: Float32, grad: Float32, observe: GradientObserver | None = None
    ) -> Float32:
        """Gradient `[..., d]` with respect to x, from that with respect to the output at x."""
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        out = np.empty_like(rows)
        gradients = np.ascontiguousarray(grad).reshape(rows.shape)
        if observe is not None:
            plain = self._normalise(rows, np.ones_like(self.gamma), np.zeros_like(self.beta))
            observe(self.name, plain, gradients)
        self._kernels.layer_norm_backward(rows, self.gamma, self.eps, gradients, out)
        return out.reshape(x.shape)

    def _normalise(self, rows: Float32, gamma: Float32, beta: Float32) -> Float32:
        out = np.empty_like(rows)
        self._kernels.layer_norm(rows, gamma, beta, self.eps, out)
        return out
