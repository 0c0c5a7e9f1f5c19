"""A linear layer."""

import numpy as np

from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.model.config import Activation
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.runtime.arrays import Floating, Norm
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.weight_forms import Weight, decoded, dense


class Linear:
    """y = activation(norm(x) W + b), with W `[K, N]` and b `[N]` (zero if None).

    Args:
        name: the weight's canonical name.
        weight: dense matrices are multiplied by numpy, panels by `kernels.matmul`.
        bias: `[N]`.
        kernels: compute.
    """

    def __init__(self, name: str, weight: Weight, bias: Floating | None, kernels: Kernels) -> None:
        self.name = name
        self.weight = weight
        self.has_bias = bias is not None
        kind = np.float32 if bias is None else np.result_type(bias, np.float32)
        self.bias = np.zeros(weight.shape[1], kind)
        if bias is not None:
            self.bias[:] = bias
        self._kernels = kernels

    def __call__(
        self,
        x: Floating,
        observe: Observer | None = None,
        *,
        norm: Norm | None = None,
        activation: Activation | None = None,
        out: Floating | None = None,
    ) -> Floating:
        """`[..., K]` -> `[..., N]`.

        Args:
            x: float16 is taken as float32.
            observe: sees the input, after `norm`.
            norm: of x, before the product.
            activation: function of the result.
            out: takes the result, `[tokens, N]`.
        """
        rows, columns = self.weight.shape
        kind = np.result_type(x, np.float32)
        tokens = np.ascontiguousarray(x, kind).reshape(-1, rows)
        if out is None:
            out = np.empty((len(tokens), columns), kind)
        weight = decoded(self.weight)
        if norm is not None and (observe is not None or not isinstance(weight, PanelMatrix)):
            normed = np.empty_like(tokens)
            self._kernels.layer_norm(tokens, *norm, normed)
            tokens, norm = normed, None
        if observe is not None:
            observe(self.name, tokens)
        if isinstance(weight, PanelMatrix):
            self._kernels.matmul(tokens, weight, self.bias, out, norm, activation)
        else:
            np.matmul(tokens, weight, out=out)
            out += self.bias
            if activation is not None:
                self._kernels.activate(activation, out)
        return out.reshape(*x.shape[:-1], columns)

    def backward(
        self, x: Floating, grad: Floating, observe: GradientObserver | None = None
    ) -> Floating:
        """Gradient `[..., K]` with respect to x, from `[..., N]`, that of the output at x.

        Of the product alone: without norm and activation.
        """
        if observe is not None:
            observe.linear(self, x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1]))
        return grad @ dense(self.weight).T
