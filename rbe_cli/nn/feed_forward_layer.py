"""Compute the feed-forward part of a block (Vaswani et al. 2017, section 3.3)."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike

from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.model.config import Activation, activation_named
from rbe_cli.nn.layer import Layer
from rbe_cli.nn.linear_layer import CHUNK_TOKENS, Linear
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.nn.operation_counts import norm_operations
from rbe_cli.nn.shape_checks import check_shape
from rbe_cli.runtime.arrays import Floating, Norm
from rbe_cli.weights.weight_forms import is_packed

# Of a chunk's hidden layer: in float32, and rounded for the product, with room for one more;
# backward the hidden layer, what is made of it, its gradient, and room for one more.
_FORWARD_COPIES, _BACKWARD_COPIES = 3, 4


class FeedForward(Layer):
    """Compute c_proj(activation(c_fc(x))).

    Attributes:
        activation: the function's name in `Activation`.
        checkpoint: c_fc's output is computed again in the backward pass, and not kept for it.
        memory_limit: bytes that what lies between input and output may take at once; tokens
            then go through in chunks, at least one at a time. None for no limit.

    Args:
        c_fc: `[d, n_inner]`.
        c_proj: `[n_inner, d]`.
        activation: any name that a model's configuration may give, such as `gelu_new`,
            `gelu_fast` or `swish`.
        kernels: compute.

    Raises:
        UsageError: the matrices do not have these shapes, or the activation is unknown.
    """

    def __init__(self, c_fc: Linear, c_proj: Linear, activation: str, kernels: Kernels) -> None:
        super().__init__(c_fc.name.rpartition(".c_fc")[0] or "mlp", kernels)
        expected = c_fc.weight.shape[::-1]
        check_shape(f"{self.name}: c_proj's weight", c_proj.weight.shape, expected)
        self.c_fc = c_fc
        self.c_proj = c_proj
        self.activation: Activation = activation_named(activation)
        self.checkpoint = False
        self.memory_limit: int | None = None

    def parts(self) -> Iterator[tuple[str, Layer]]:
        """Yield the two linear layers."""
        yield "c_fc", self.c_fc
        yield "c_proj", self.c_proj

    def __call__(
        self, x: Floating, observe: Observer | None = None, *, norm: Norm | None = None
    ) -> Floating:
        """Return the result `[..., d]` for x of the same shape.

        Args:
            x: input.
            observe: sees the linear layers' inputs.
            norm: is applied to x before all else.

        Raises:
            UsageError: an array has a wrong shape.
        """
        check_shape(f"{self.name}: the input", x.shape, (..., self.width))
        tokens = x.reshape(-1, self.width)
        kind = np.result_type(x, np.float32)
        is_chunked = observe is None and is_packed(self.c_fc.weight)
        most = CHUNK_TOKENS if is_chunked else len(tokens)
        with self._counted(lambda: self.operations(len(tokens), is_normed=norm is not None)):
            out = np.empty((len(tokens), self.width), kind)
            for chunk in self._chunks(len(tokens), kind, _FORWARD_COPIES, most):
                shape = chunk.stop - chunk.start, self.c_fc.weight.shape[1]
                with self.kernels.buffers.borrow(shape, kind) as hidden:
                    self.c_fc(
                        tokens[chunk], observe, norm=norm, activation=self.activation, out=hidden
                    )
                    self.c_proj(hidden, observe, out=out[chunk])
        return out.reshape(x.shape)

    @property
    def width(self) -> int:
        """Return the size d of input and output."""
        return self.c_fc.weight.shape[0]

    def expand(self, x: Floating) -> Floating:
        """Return c_fc(x), `[..., n_inner]`, which `contract` continues."""
        return self.c_fc(x)

    def contract(self, hidden: Floating) -> Floating:
        """Return c_proj(activation(hidden)), `[..., d]`."""
        return self.c_proj(self.activated(hidden))

    def backward(
        self,
        x: Floating,
        grad: Floating,
        observe: GradientObserver | None = None,
        hidden: Floating | None = None,
    ) -> Floating:
        """Return the gradient `[..., d]` with respect to x.

        Args:
            x: the input.
            grad: `[..., d]`, with respect to the output.
            observe: sees the linear layers, chunk by chunk.
            hidden: `expand(x)`; None to compute it again.

        Raises:
            UsageError: an array has a wrong shape.
        """
        check_shape(f"{self.name}: the input", x.shape, (..., self.width))
        check_shape(f"{self.name}: the gradient of the output", grad.shape, x.shape)
        if hidden is not None:
            expected = (*x.shape[:-1], self.c_fc.weight.shape[1])
            check_shape(f"{self.name}: the hidden layer", hidden.shape, expected)
        tokens, grads = x.reshape(-1, self.width), grad.reshape(-1, self.width)
        kept = None if hidden is None else hidden.reshape(len(tokens), -1)
        with self._counted(lambda: self.operations(len(tokens), backward=True), backward=True):
            out = np.empty_like(tokens)
            for chunk in self._chunks(len(tokens), x.dtype, _BACKWARD_COPIES, len(tokens)):
                own = self.expand(tokens[chunk]) if kept is None else kept[chunk]
                inner = self.c_proj.backward(self.activated(own), grads[chunk], observe)
                self.kernels.activate_backward(self.activation, own, inner)
                out[chunk] = self.c_fc.backward(tokens[chunk], inner, observe)
        return out.reshape(x.shape)

    def activated(self, hidden: Floating) -> Floating:
        """Return activation(hidden), of the same shape."""
        out = hidden.copy()
        self.kernels.activate(self.activation, out)
        return out

    def operations(self, tokens: int, *, is_normed: bool = False, backward: bool = False) -> int:
        """Return the floating-point operations of a call, those of the linear layers included."""
        return (
            self.c_fc.operations(tokens, backward=backward)
            + self.c_proj.operations(tokens, backward=backward)
            + (norm_operations(tokens * self.width, backward) if is_normed else 0)
        )

    def _chunks(self, tokens: int, kind: DTypeLike, copies: int, count: int) -> Iterator[slice]:
        """Yield stretches of `count` tokens, or of as many as the limit has room for.

        A token takes its output and so many copies of its hidden layer.
        """
        if self.memory_limit is not None:
            width, hidden = self.c_fc.weight.shape
            each = np.dtype(kind).itemsize * (width + copies * hidden)
            count = min(count, self.memory_limit // each)
        for start in range(0, tokens, max(count, 1)):
            yield slice(start, min(start + max(count, 1), tokens))
