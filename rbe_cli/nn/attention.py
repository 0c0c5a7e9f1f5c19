"""Causal multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

import math

import numpy as np

from rbe_cli.checkpoint.config import Gpt2Config
from rbe_cli.kernels.arrays import Float32
from rbe_cli.kernels.table import Kernels
from rbe_cli.nn.kv_cache import LayerCache
from rbe_cli.nn.linear import Linear
from rbe_cli.nn.observer import GradientObserver, Observer


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
    """

    def __init__(
        self, c_attn: Linear, c_proj: Linear, heads: int, scale: float, kernels: Kernels
    ) -> None:
        self.c_attn = c_attn
        self.c_proj = c_proj
        self.heads = heads
        self.scale = scale
        self._kernels = kernels

    def __call__(self, x: Float32, cache: LayerCache, observe: Observer | None = None) -> Float32:
        """`[batch, seq, d]` -> `[batch, seq, d]`; appends the new keys and values to `cache`."""
        return self.c_proj(self.mix(self.c_attn(x, observe), cache), observe)

    def mix(self, qkv: Float32, cache: LayerCache) -> Float32:
        """The heads' outputs, before the projection; `[batch, seq, 3 * d]` -> `[..., d]`."""
        out = np.empty((*qkv.shape[:2], qkv.shape[2] // 3), np.float32)
        self._kernels.attention(
            qkv, cache.keys, cache.values, cache.rows, cache.starts, self.scale, out
        )
        return out

    def backward(
        self,
        x: Float32,
        qkv: Float32,
        mixed: Float32,
        grad: Float32,
        observe: GradientObserver | None = None,
    ) -> Float32:
        """Gradient `[batch, seq, d]` with respect to x, of whole sequences.

        Args:
            x: input.
            qkv: `c_attn(x)`.
            mixed: `mix(qkv)`.
            grad: with respect to the output.
            observe: sees the linear layers.
        """
        grad_qkv = np.empty_like(qkv)
        grad_mixed = self.c_proj.backward(mixed, grad, observe)
        self._kernels.attention_backward(qkv, self.heads, self.scale, grad_mixed, grad_qkv)
        return self.c_attn.backward(x, grad_qkv, observe)
