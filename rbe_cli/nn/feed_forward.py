"""The feed-forward part of a block (Vaswani et al. 2017, section 3.3)."""

from rbe_cli.kernels.arrays import Float32, InPlace
from rbe_cli.nn.linear import Linear
from rbe_cli.nn.observer import Observer


class FeedForward:
    """c_proj(activation(c_fc(x))).

    Args:
        c_fc: `[d, n_inner]`.
        c_proj: `[n_inner, d]`.
        activation: works in place on `[tokens, n_inner]`.
    """

    def __init__(self, c_fc: Linear, c_proj: Linear, activation: InPlace) -> None:
        self.c_fc = c_fc
        self.c_proj = c_proj
        self.activation = activation

    def __call__(self, x: Float32, observe: Observer | None = None) -> Float32:
        """`[..., d]` -> `[..., d]`."""
        hidden = self.c_fc(x, observe)  # [..., d] -> [..., n_inner]
        self.activation(hidden.reshape(-1, hidden.shape[-1]))
        return self.c_proj(hidden, observe)  # [..., n_inner] -> [..., d]
