"""Compute causal multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

from collections.abc import Iterator, Sequence

import numpy as np

from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.nn.kv_cache import LayerCache, starts_of
from rbe_cli.nn.layer import Layer
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.nn.operation_counts import attention_operations, norm_operations
from rbe_cli.nn.shape_checks import check_shape, shape_text
from rbe_cli.runtime.arrays import Floating, Mask, Norm


class Attention(Layer):
    """Compute softmax(scale Q K^T, past only) V for each head, then an output projection.

    Args:
        c_attn: `[d, 3 * d]`, queries, keys and values side by side, each head by head.
        c_proj: `[d, d]`.
        heads: that d is divided into.
        scale: of the scores.
        kernels: compute.

    Raises:
        UsageError: the matrices have other shapes, or d is not a multiple of `heads`.
    """

    def __init__(
        self, c_attn: Linear, c_proj: Linear, heads: int, scale: float, kernels: Kernels
    ) -> None:
        super().__init__(c_attn.name.rpartition(".c_attn")[0] or "attn", kernels)
        width = c_attn.weight.shape[0]
        check_shape(f"{self.name}: c_attn's weight", c_attn.weight.shape, (width, 3 * width))
        check_shape(f"{self.name}: c_proj's weight", c_proj.weight.shape, (width, width))
        if heads < 1 or width % heads:
            raise UsageError(f"{self.name}: {width} columns cannot be divided into {heads} heads")
        self.c_attn = c_attn
        self.c_proj = c_proj
        self.heads = heads
        self.scale = scale

    @property
    def width(self) -> int:
        """Return the size d of input and output."""
        return self.c_attn.weight.shape[0]

    def parts(self) -> Iterator[tuple[str, Layer]]:
        """Yield the two linear layers."""
        yield "c_attn", self.c_attn
        yield "c_proj", self.c_proj

    def __call__(
        self,
        x: Floating,
        cache: LayerCache | None = None,
        observe: Observer | None = None,
        *,
        norm: Norm | None = None,
        mask: Mask | None = None,
        weights: Floating | None = None,
    ) -> Floating:
        """Return the result `[batch, seq, d]` for x of the same shape.

        Args:
            x: input.
            cache: takes the new keys and values, and is attended to; None for whole sequences.
            observe: sees the linear layers' inputs.
            norm: is applied to x before all else.
            mask: bool `[batch, 1 or heads, 1 or seq, length]`, true for positions that may be
                seen; a query that may see none gives zeros. None for all of the past.
            weights: `[batch, heads, seq, length]`, takes what each query attends to.

        Raises:
            UsageError: an array has a wrong shape.
        """
        check_shape(f"{self.name}: the input", x.shape, ("batch", "seq", self.width))
        batch, seq, width = x.shape
        self._check(batch, seq, cache, mask, weights)
        kind, buffers = np.result_type(x, np.float32), self.kernels.buffers
        with (
            self._counted(
                lambda: self.operations(batch, seq, starts_of(cache), is_normed=norm is not None)
            ),
            buffers.borrow((batch * seq, 3 * width), kind) as qkv,
            buffers.borrow((batch, seq, width), kind) as attended,
        ):
            self.c_attn(x, observe, norm=norm, out=qkv)
            self._attend(qkv.reshape(batch, seq, 3 * width), cache, mask, attended, weights)
            return self.c_proj(attended, observe)

    def attend(
        self, qkv: Floating, cache: LayerCache | None = None, mask: Mask | None = None
    ) -> Floating:
        """Return the heads' outputs `[batch, seq, d]`, before the projection.

        Args:
            qkv: `[batch, seq, 3 * d]`, c_attn's output.
            cache, mask: as of a call.

        Raises:
            UsageError: an array has a wrong shape.
        """
        expected = "batch", "seq", 3 * self.width
        check_shape(f"{self.name}: the queries, keys and values", qkv.shape, expected)
        batch, seq, _ = qkv.shape
        self._check(batch, seq, cache, mask, None)
        out = np.empty((batch, seq, self.width), qkv.dtype)
        self._attend(qkv, cache, mask, out, None)
        return out

    def backward(
        self,
        x: Floating,
        qkv: Floating,
        attended: Floating,
        grad: Floating,
        observe: GradientObserver | None = None,
        mask: Mask | None = None,
    ) -> Floating:
        """Return the gradient `[batch, seq, d]` with respect to x, of whole sequences.

        Args:
            x: input.
            qkv: `c_attn(x)`.
            attended: `attend(qkv)`.
            grad: with respect to the output.
            observe: sees the linear layers.
            mask: as in the forward pass.

        Raises:
            UsageError: an array has a wrong shape.
        """
        check_shape(f"{self.name}: the input", x.shape, ("batch", "seq", self.width))
        batch, seq, width = x.shape
        self._check(batch, seq, None, mask, None)
        for what, array, size in (
            ("the queries, keys and values", qkv, 3 * width),
            ("the heads' output", attended, width),
            ("the gradient of the output", grad, width),
        ):
            check_shape(f"{self.name}: {what}", array.shape, (batch, seq, size))
        with self._counted(lambda: self.operations(batch, seq, backward=True), backward=True):
            grad_qkv = np.empty_like(qkv)
            grad_attended = self.c_proj.backward(attended, grad, observe)
            self.kernels.attention_backward(
                qkv, self.heads, self.scale, grad_attended, grad_qkv, mask
            )
            return self.c_attn.backward(x, grad_qkv, observe)

    def operations(
        self,
        batch: int,
        seq: int,
        starts: Sequence[int] | None = None,
        *,
        is_normed: bool = False,
        backward: bool = False,
    ) -> int:
        """Return the floating-point operations of a call, those of the linear layers included.

        Args:
            batch, seq: of the input.
            starts: how many positions each sequence had before; None for 0.
            is_normed: a norm is applied to the input.
            backward: count the backward pass.
        """
        tokens, width = batch * seq, self.width
        starts = [0] * batch if starts is None else starts
        return (
            self.c_attn.operations(tokens, backward=backward)
            + attention_operations(starts, seq, width, backward)
            + self.c_proj.operations(tokens, backward=backward)
            + (norm_operations(tokens * width, backward) if is_normed else 0)
        )

    def _attend(
        self,
        qkv: Floating,
        cache: LayerCache | None,
        mask: Mask | None,
        out: Floating,
        weights: Floating | None,
    ) -> None:
        """Write the heads' outputs; whole sequences have a cache for the time of the call."""
        if cache is not None:
            place = cache.keys, cache.values, cache.rows, cache.starts
            self.kernels.attention(qkv, *place, self.scale, out, mask, weights)
            return
        batch, seq, width = out.shape
        shape = 2, batch, self.heads, seq, width // self.heads
        with self.kernels.buffers.borrow(shape, qkv.dtype) as pair:
            rows, starts = np.arange(batch), np.zeros(batch, np.int64)
            place = pair[0], pair[1], rows, starts
            self.kernels.attention(qkv, *place, self.scale, out, mask, weights)

    def _check(
        self,
        batch: int,
        seq: int,
        cache: LayerCache | None,
        mask: Mask | None,
        weights: Floating | None,
    ) -> None:
        """Refuse a cache, a mask or an array for weights of a wrong shape."""
        length = seq
        if cache is not None:
            self._check_cache(batch, cache)
            length += int(cache.starts.max(initial=0))
            if length > cache.keys.shape[2]:
                raise UsageError(
                    f"{self.name}: {length} positions do not fit a cache of {cache.keys.shape[2]}"
                )
        if mask is not None:
            self._check_mask(mask, batch, seq, length)
        if weights is not None:
            expected = batch, self.heads, seq, length
            if weights.shape[:3] != expected[:3] or weights.shape[3] < length:
                check_shape(f"{self.name}: the array for the weights", weights.shape, expected)

    def _check_cache(self, batch: int, cache: LayerCache) -> None:
        head = self.width // self.heads
        expected = "rows", self.heads, "capacity", head
        check_shape(f"{self.name}: the cache's keys", cache.keys.shape, expected)
        check_shape(f"{self.name}: the cache's values", cache.values.shape, cache.keys.shape)
        check_shape(f"{self.name}: the cache's row numbers", cache.rows.shape, (batch,))
        check_shape(f"{self.name}: the cache's starts", cache.starts.shape, (batch,))

    def _check_mask(self, mask: Mask, batch: int, seq: int, length: int) -> None:
        """Refuse a mask of another shape; more positions than are read may follow."""
        fits = (
            mask.ndim == 4
            and mask.shape[0] == batch
            and mask.shape[1] in (1, self.heads)
            and mask.shape[2] in (1, seq)
            and mask.shape[3] >= length
        )
        if not fits:
            wanted = shape_text((batch, f"1 or {self.heads}", f"1 or {seq}", length))
            found = shape_text(mask.shape)
            raise UsageError(f"{self.name}: the mask has the shape {found}, not {wanted}")
        if mask.dtype != np.bool_:
            raise UsageError(f"{self.name}: a mask is of bool, and this one of {mask.dtype}")
