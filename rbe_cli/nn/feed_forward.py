"""The feed-forward part of a block (Vaswani et al. 2017, section 3.3)."""

from rbe_cli.checkpoint.config import Activation
from rbe_cli.kernels.arrays import Float32
from rbe_cli.kernels.table import Kernels
from rbe_cli.nn.linear import Linear
from rbe_cli.nn.observer import GradientObserver, Observer


class FeedForward:
    """c_proj(activation(c_fc(x))).

    Args:
        c_fc: `[d, n_inner]`.
        c_proj: `[n_inner, d]`.
        activation: the config's name.
    """

    def __init__(
        self, c_fc: Linear, c_proj: Linear, activation: Activation, kernels: Kernels
    ) -> None:
        self.c_fc = c_fc
        self.c_proj = c_proj
        self._activation = kernels.activations[activation]
        self._activation_backward = kernels.activations_backward[activation]

    def __call__(self, x: Float32, observe: Observer | None = None) -> Float32:
        """`[..., d]` -> `[..., d]`."""
        hidden = self.c_fc(x, observe)  # [..., d] -> [..., n_inner]
        self._activation(hidden.reshape(-1, hidden.shape[-1]))
        return self.c_proj(hidden, observe)  # [..., n_inner] -> [..., d]

    def backward(
        self, x: Float32, grad: Float32, observe: GradientObserver | None = None
    ) -> Float32:
        """Gradient `[..., d]` with respect to x, from the output's; recomputes what lies between.

        `observe` sees the linear layers.
        """
        hidden = self.c_fc(x)  # [..., d] -> [..., n_inner]
        width = hidden.shape[-1]
        activated = hidden.copy()
        self._activation(activated.reshape(-1, width))
        inner = self.c_proj.backward(activated, grad, observe)  # [..., d] -> [..., n_inner]
        self._activation_backward(hidden.reshape(-1, width), inner.reshape(-1, width))
        return self.c_fc.backward(x, inner, observe)
