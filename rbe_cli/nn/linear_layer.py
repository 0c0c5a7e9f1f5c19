"""Compute a linear layer."""

import numpy as np

from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.model.config import Activation
from rbe_cli.nn.layer import Layer
from rbe_cli.nn.memory_usage import MemoryUsage
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.nn.operation_counts import linear_operations, norm_operations
from rbe_cli.nn.shape_checks import check_shape
from rbe_cli.runtime.arrays import Floating, Norm
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.weight_forms import Weight, decoded, dense, kept_bytes

CHUNK_TOKENS = 256
"""Tokens at once where a caller may choose: kernels take no more, and caches hold them."""


class Linear(Layer):
    """Compute y = activation(norm(x) W + b), with W `[K, N]` and b `[N]` (zero if None).

    Args:
        name: the weight's canonical name.
        weight: dense matrices are multiplied by `kernels.product`, panels by `kernels.matmul`.
        bias: `[N]`.
        kernels: compute.

    Raises:
        UsageError: weight and bias do not have these shapes.
    """

    def __init__(self, name: str, weight: Weight, bias: Floating | None, kernels: Kernels) -> None:
        super().__init__(name, kernels)
        check_shape(f"{name}: the weight", weight.shape, ("inputs", "outputs"))
        self.weight = weight
        self.has_bias = bias is not None
        kind = np.float32 if bias is None else np.result_type(bias, np.float32)
        self.bias = np.zeros(weight.shape[1], kind)
        if bias is not None:
            check_shape(f"{name}: the bias", bias.shape, self.bias.shape)
            self.bias[:] = bias

    def __call__(
        self,
        x: Floating,
        observe: Observer | None = None,
        *,
        norm: Norm | None = None,
        activation: Activation | None = None,
        out: Floating | None = None,
    ) -> Floating:
        """Return the result `[..., N]` for x `[..., K]`.

        Args:
            x: float16 is taken as float32.
            observe: sees the input, after `norm`.
            norm: is applied to x before the product, a few tokens at a time.
            activation: is applied to the result.
            out: takes the result, `[tokens, N]`.

        Raises:
            UsageError: an array has a wrong shape.
        """
        rows, columns = self.weight.shape
        check_shape(f"{self.name}: the input", x.shape, (..., rows))
        kind = np.result_type(x, np.float32)
        tokens = np.ascontiguousarray(x, kind).reshape(-1, rows)
        if norm is not None:
            check_shape(f"{self.name}: gamma of the input's norm", norm.gamma.shape, (rows,))
        if out is not None:
            check_shape(f"{self.name}: the array for the result", out.shape, (len(tokens), columns))
        with self._counted(lambda: self.operations(len(tokens), is_normed=norm is not None)):
            if out is None:
                out = np.empty((len(tokens), columns), kind)
            if observe is not None:
                if norm is not None:
                    tokens, norm = self._normed(tokens, norm), None
                observe(self.name, tokens)
            weight = decoded(self.weight)
            if isinstance(weight, PanelMatrix):
                self.kernels.matmul(tokens, weight, self.bias, out, norm, activation)
            else:
                self._multiply_dense(tokens, weight, norm, out)
                if activation is not None:
                    self.kernels.activate(activation, out)
        return out.reshape(*x.shape[:-1], columns)

    def backward(
        self, x: Floating, grad: Floating, observe: GradientObserver | None = None
    ) -> Floating:
        """Return the gradient `[..., K]` with respect to x; of the product alone.

        Args:
            x: the input `[..., K]`, after any norm.
            grad: `[..., N]`, with respect to the product.
            observe: sees both.

        Raises:
            UsageError: an array has a wrong shape.
        """
        rows, columns = self.weight.shape
        check_shape(f"{self.name}: the input", x.shape, (..., rows))
        expected = (*x.shape[:-1], columns)
        check_shape(f"{self.name}: the gradient of the output", grad.shape, expected)
        tokens = x.size // rows
        with self._counted(lambda: self.operations(tokens, backward=True), backward=True):
            if observe is not None:
                observe.linear(self, x.reshape(-1, rows), grad.reshape(-1, columns))
            return self.kernels.product(grad, dense(self.weight).T)

    def operations(self, tokens: int, *, is_normed: bool = False, backward: bool = False) -> int:
        """Return the floating-point operations of a call."""
        rows, columns = self.weight.shape
        norm = norm_operations(tokens * rows, backward) if is_normed else 0
        return linear_operations(tokens, rows * columns, backward) + norm

    def memory_usage(self) -> MemoryUsage:
        """Return what weight and bias take."""
        bias = self.bias if self.has_bias else self.bias[:0]
        rows, columns = self.weight.shape
        return MemoryUsage(
            self.weight.nbytes + bias.nbytes,
            4 * (rows * columns + bias.size),
            kept_bytes(self.weight),
        )

    def _normed(self, tokens: Floating, norm: Norm) -> Floating:
        out = np.empty_like(tokens)
        self.kernels.layer_norm(tokens, *norm, out)
        return out

    def _multiply_dense(
        self, tokens: Floating, weight: Floating, norm: Norm | None, out: Floating
    ) -> None:
        """Write norm(tokens) weight + bias; what is normalised is never whole in memory."""
        if norm is None:
            self.kernels.product(tokens, weight, out)
        else:
            for start in range(0, len(tokens), CHUNK_TOKENS):
                part = tokens[start : start + CHUNK_TOKENS]
                with self.kernels.buffers.borrow(part.shape, part.dtype) as normed:
                    self.kernels.layer_norm(part, *norm, normed)
                    self.kernels.product(normed, weight, out[start : start + CHUNK_TOKENS])
        out += self.bias
