"""One layer of the stack."""

from rbe_cli.kernels.arrays import Float32
from rbe_cli.nn.attention import Attention
from rbe_cli.nn.feed_forward import FeedForward
from rbe_cli.nn.kv_cache import LayerCache
from rbe_cli.nn.layer_norm import LayerNorm
from rbe_cli.nn.observer import GradientObserver, Observer


class TransformerBlock:
    """Pre-norm residual block (Radford et al. 2019, section 2.3).

    x + attn(ln_1(x)), then the same with mlp and ln_2.
    """

    def __init__(self, ln_1: LayerNorm, attn: Attention, ln_2: LayerNorm, mlp: FeedForward) -> None:
        self.ln_1 = ln_1
        self.attn = attn
        self.ln_2 = ln_2
        self.mlp = mlp

    def __call__(self, x: Float32, cache: LayerCache, observe: Observer | None = None) -> Float32:
        """`[batch, seq, d]` -> `[batch, seq, d]`; appends to `cache`."""
        x = x + self.attn(self.ln_1(x), cache, observe)
        x += self.mlp(self.ln_2(x), observe)
        return x

    def backward(
        self, x: Float32, cache: LayerCache, grad: Float32, observe: GradientObserver | None = None
    ) -> Float32:
        """Gradient with respect to x of whole sequences, all `[batch, seq, d]`.

        Nothing but x need be kept from the forward pass: the rest is computed again (gradient
        checkpointing, Chen et al. 2016).

        Args:
            x: the block's input.
            cache: an empty one, which is overwritten.
            grad: with respect to the block's output.
            observe: sees the linear layers and the LayerNorms.
        """
        normed = self.ln_1(x)
        qkv = self.attn.c_attn(normed)
        mixed = self.attn.mix(qkv, cache)
        middle = x + self.attn.c_proj(mixed)
        fed = self.mlp.backward(self.ln_2(middle), grad, observe)
        grad = grad + self.ln_2.backward(middle, fed, observe)
        attended = self.attn.backward(normed, qkv, mixed, grad, observe)
        return grad + self.ln_1.backward(x, attended, observe)
