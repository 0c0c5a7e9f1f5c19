"""Causal multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

import math

import numpy as np

from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.model.config import Gpt2Config
from rbe_cli.nn.kv_cache import LayerCache
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.runtime.arrays import Floating, Mask, Norm


def score_scale(config: Gpt2Config, layer: int) -> float:
    """The factor of a layer's scores, from the config's two options; `layer` counts from 0."""
    scale = 1.0 / math.sqrt(config.head_dim) if config.scale_attn_weights else 1.0
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


class Attention:
    """softmax(scale Q K^T, past only) V for each head, then an output projection.

    Args:
        c_attn: `[d, 3 * d]`, queries, keys and values side by side, each head by head.
        c_proj: `[d, d]`.
        heads: that d is divided into.
        scale: of the scores.
        kernels: compute.
    """

    def __init__(
        self, c_attn: Linear, c_proj: Linear, heads: int, scale: float, kernels: Kernels
    ) -> None:
        self.c_attn = c_attn
        self.c_proj = c_proj
        self.heads = heads
        self.scale = scale
        self._kernels = kernels

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
        """`[batch, seq, d]` -> `[batch, seq, d]`.

        Args:
            x: input.
            cache: takes the new keys and values, and is attended to; None for whole sequences.
            observe: sees the linear layers.
            norm: of x, before all else.
            mask: `[batch, 1 or heads, 1 or seq, length]`, true for positions that may be seen;
                a query that may see none gives zeros. None for all of the past.
            weights: `[batch, heads, seq, length]`, takes what each query attends to.
        """
        batch, seq, width = x.shape
        kind, buffers = np.result_type(x, np.float32), self._kernels.buffers
        with (
            buffers.borrow((batch * seq, 3 * width), kind) as qkv,
            buffers.borrow((batch, seq, width), kind) as mixed,
        ):
            self.c_attn(x, observe, norm=norm, out=qkv)
            self._mix(qkv.reshape(batch, seq, 3 * width), cache, mask, mixed, weights)
            return self.c_proj(mixed, observe)

    def mix(
        self, qkv: Floating, cache: LayerCache | None = None, mask: Mask | None = None
    ) -> Floating:
        """The heads' outputs, before the projection; `[batch, seq, 3 * d]` -> `[..., d]`."""
        out = np.empty((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype)
        self._mix(qkv, cache, mask, out, None)
        return out

    def _mix(
        self,
        qkv: Floating,
        cache: LayerCache | None,
        mask: Mask | None,
        out: Floating,
        weights: Floating | None,
    ) -> None:
        if cache is not None:
            self._attend(qkv, cache, mask, out, weights)
            return
        batch, seq, width = out.shape
        shape = 2, batch, self.heads, seq, width // self.heads
        with self._kernels.buffers.borrow(shape, qkv.dtype) as pair:
            nothing = np.zeros(batch, np.int64)
            cache = LayerCache(pair[0], pair[1], np.arange(batch), nothing)
            self._attend(qkv, cache, mask, out, weights)

    def _attend(
        self,
        qkv: Floating,
        cache: LayerCache,
        mask: Mask | None,
        out: Floating,
        weights: Floating | None,
    ) -> None:
        place = cache.keys, cache.values, cache.rows, cache.starts
        self._kernels.attention(qkv, *place, self.scale, out, mask, weights)

    def backward(
        self,
        x: Floating,
        qkv: Floating,
        mixed: Floating,
        grad: Floating,
        observe: GradientObserver | None = None,
        mask: Mask | None = None,
    ) -> Floating:
        """Gradient `[batch, seq, d]` with respect to x, of whole sequences.

        Args:
            x: input.
            qkv: `c_attn(x)`.
            mixed: `mix(qkv)`.
            grad: with respect to the output.
            observe: sees the linear layers.
            mask: as in the forward pass.
        """
        grad_qkv = np.empty_like(qkv)
        grad_mixed = self.c_proj.backward(mixed, grad, observe)
        self._kernels.attention_backward(qkv, self.heads, self.scale, grad_mixed, grad_qkv, mask)
        return self.c_attn.backward(x, grad_qkv, observe)
