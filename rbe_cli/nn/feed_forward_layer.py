"""The feed-forward part of a block (Vaswani et al. 2017, section 3.3)."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike

from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.model.config import Activation
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.runtime.arrays import Floating, Norm
from rbe_cli.weights.weight_forms import is_packed

# Of a chunk's hidden layer: in float32, and rounded to 16 bits for the product; backward the
# hidden layer, what is made of it, its gradient, and room for one more.
_FORWARD_COPIES, _BACKWARD_COPIES = 2, 4
CHUNK_TOKENS = 256
"""Tokens at once where weights are compressed: kernels take no more, and caches hold them."""


class FeedForward:
    """c_proj(activation(c_fc(x))).

    Attributes:
        checkpoint: c_fc's output is computed again in the backward pass, and not kept for it.
        memory_limit: bytes that what lies between input and output may take at once; tokens
            then go through in chunks, at least one at a time. None for no limit.

    Args:
        c_fc: `[d, n_inner]`.
        c_proj: `[n_inner, d]`.
        activation: the config's name.
        kernels: compute.
    """

    def __init__(
        self, c_fc: Linear, c_proj: Linear, activation: Activation, kernels: Kernels
    ) -> None:
        self.c_fc = c_fc
        self.c_proj = c_proj
        self.checkpoint = False
        self.memory_limit: int | None = None
        self._activation = activation
        self._kernels = kernels

    def __call__(
        self, x: Floating, observe: Observer | None = None, *, norm: Norm | None = None
    ) -> Floating:
        """`[..., d]` -> `[..., d]`; `norm` is of x, before all else."""
        tokens = x.reshape(-1, x.shape[-1])
        kind = np.result_type(x, np.float32)
        out = np.empty((len(tokens), self.c_proj.weight.shape[1]), kind)
        is_chunked = observe is None and is_packed(self.c_fc.weight)
        most = CHUNK_TOKENS if is_chunked else len(tokens)
        for chunk in self._chunks(len(tokens), kind, _FORWARD_COPIES, most):
            shape = chunk.stop - chunk.start, self.c_fc.weight.shape[1]
            with self._kernels.buffers.borrow(shape, kind) as hidden:
                self.c_fc(
                    tokens[chunk], observe, norm=norm, activation=self._activation, out=hidden
                )
                self.c_proj(hidden, observe, out=out[chunk])
        return out.reshape(x.shape)

    def expand(self, x: Floating) -> Floating:
        """c_fc(x), `[..., n_inner]`, which `contract` continues."""
        return self.c_fc(x)

    def contract(self, hidden: Floating) -> Floating:
        """c_proj(activation(hidden)), `[..., d]`."""
        return self.c_proj(self.activated(hidden))

    def backward(
        self,
        x: Floating,
        grad: Floating,
        observe: GradientObserver | None = None,
        hidden: Floating | None = None,
    ) -> Floating:
        """Gradient `[..., d]` with respect to x.

        Args:
            x: the input.
            grad: `[..., d]`, with respect to the output.
            observe: sees the linear layers, chunk by chunk.
            hidden: `expand(x)`; None to compute it again.
        """
        tokens, grads = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        kept = None if hidden is None else hidden.reshape(len(tokens), -1)
        out = np.empty_like(tokens)
        for chunk in self._chunks(len(tokens), x.dtype, _BACKWARD_COPIES, len(tokens)):
            own = self.expand(tokens[chunk]) if kept is None else kept[chunk]
            inner = self.c_proj.backward(self.activated(own), grads[chunk], observe)
            self._kernels.activate_backward(self._activation, own, inner)
            out[chunk] = self.c_fc.backward(tokens[chunk], inner, observe)
        return out.reshape(x.shape)

    def activated(self, hidden: Floating) -> Floating:
        """activation(hidden), of the same shape."""
        out = hidden.copy()
        self._kernels.activate(self._activation, out)
        return out

    def _chunks(self, tokens: int, kind: DTypeLike, copies: int, count: int) -> Iterator[slice]:
        """Stretches of `count` tokens, or as many of whose hidden layer so many copies fit."""
        if self.memory_limit is not None:
            width, hidden = self.c_fc.weight.shape
            each = np.dtype(kind).itemsize * (width + copies * hidden)
            count = min(count, self.memory_limit // each)
        for start in range(0, tokens, max(count, 1)):
            yield slice(start, min(start + max(count, 1), tokens))
