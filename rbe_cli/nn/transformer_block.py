"""One layer of the stack."""

import numpy as np

from rbe_cli.nn.attention_layer import Attention
from rbe_cli.nn.feed_forward_layer import CHUNK_TOKENS, FeedForward
from rbe_cli.nn.kv_cache import LayerCache
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.nn.profile import LayerProfile, ignore
from rbe_cli.nn.tape import AllSavedTensors, SavedTensors
from rbe_cli.runtime.arrays import Floating, Mask
from rbe_cli.weights.weight_forms import is_packed

_COPIES = 10  # of a sequence's activations: qkv, mixed, keys, values, both sums, rounded ones


class TransformerBlock:
    """Pre-norm residual block (Radford et al. 2019, section 2.3).

    x + attn(ln_1(x)), then the same with mlp and ln_2.

    Attributes:
        profile: is told how long each part takes; None for nobody.
    """

    def __init__(self, ln_1: LayerNorm, attn: Attention, ln_2: LayerNorm, mlp: FeedForward) -> None:
        self.ln_1 = ln_1
        self.attn = attn
        self.ln_2 = ln_2
        self.mlp = mlp
        self.profile: LayerProfile | None = None
        self._memory_limit: int | None = None

    @property
    def memory_limit(self) -> int | None:
        """Bytes that what lies between input and output may take at once; None for no limit.

        Sequences then go through in groups, at least one at a time, and the feed-forward part's
        tokens in chunks. Passes that are observed, profiled or recorded are not limited.
        """
        return self._memory_limit

    @memory_limit.setter
    def memory_limit(self, limit: int | None) -> None:
        self._memory_limit = limit
        self.mlp.memory_limit = None if limit is None else limit // 2

    def __call__(
        self,
        x: Floating,
        cache: LayerCache | None = None,
        observe: Observer | None = None,
        *,
        mask: Mask | None = None,
    ) -> Floating:
        """`[batch, seq, d]` -> `[batch, seq, d]`.

        Args:
            x: input.
            cache: takes the new keys and values, and is attended to; None for whole sequences.
            observe: sees the linear layers.
            mask: as of `Attention`.
        """
        count = self._sequences_at_once(x)
        if count >= len(x) or self.profile is not None or observe is not None:
            return self._forward(x, cache, observe, mask)
        out = np.empty(x.shape, np.result_type(x, np.float32))
        for start in range(0, len(x), count):
            group = slice(start, start + count)
            own = None if cache is None else cache.of(group)
            out[group] = self._forward(
                x[group], own, observe, None if mask is None else mask[group]
            )
        return out

    def _forward(
        self,
        x: Floating,
        cache: LayerCache | None,
        observe: Observer | None,
        mask: Mask | None,
    ) -> Floating:
        profile = self.profile
        if profile is None and observe is None and self.ln_1.variant == "fused":
            middle = self.attn(x, cache, norm=self.ln_1.norm, mask=mask)
            middle += x
            out = self.mlp(middle, norm=self.ln_2.norm)
            out += middle
            return out
        lap = ignore
        if profile is not None:
            profile.start()
            lap = profile.lap
        normed = self.ln_1(x)
        lap("ln_1")
        middle = self.attn(normed, cache, observe, mask=mask)
        lap("attention")
        middle += x
        lap("residual")
        normed = self.ln_2(middle)
        lap("ln_2")
        out = self.mlp(normed, observe)
        lap("feed_forward")
        out += middle
        lap("residual")
        if profile is not None:
            profile.stop()
        return out

    def record(
        self,
        x: Floating,
        cache: LayerCache | None = None,
        *,
        mask: Mask | None = None,
        checkpoint: bool = False,
    ) -> tuple[Floating, SavedTensors]:
        """The output `[batch, seq, d]`, and what the backward pass needs.

        Args:
            x: input.
            cache, mask: as of a call.
            checkpoint: keep x alone; the rest is computed again in the backward pass.
        """
        if checkpoint:
            return self(x, cache, mask=mask), SavedTensors(x)
        saved = self._recomputed(x, cache, mask)
        middle = saved.middle
        if saved.hidden is None:
            out = self.mlp(self.ln_2(middle))
        else:
            out = self.mlp.contract(saved.hidden)
        return middle + out, saved

    def backward(
        self,
        saved: SavedTensors,
        grad: Floating,
        observe: GradientObserver | None = None,
        *,
        mask: Mask | None = None,
    ) -> Floating:
        """Gradient with respect to x of whole sequences, `[batch, seq, d]`.

        Args:
            saved: of the forward pass.
            grad: `[batch, seq, d]`, with respect to the output.
            observe: sees the linear layers and the LayerNorms.
            mask: as of the forward pass.
        """
        if not isinstance(saved, AllSavedTensors):
            saved = self._recomputed(saved.x, None, mask)
        middle = saved.middle
        fed = self.mlp.backward(self.ln_2(middle), grad, observe, saved.hidden)
        grad = grad + self.ln_2.backward(middle, fed, observe, saved.statistics_2)
        attended = self.attn.backward(
            self.ln_1(saved.x), saved.qkv, saved.mixed, grad, observe, mask
        )
        return grad + self.ln_1.backward(saved.x, attended, observe, saved.statistics_1)

    def _recomputed(
        self, x: Floating, cache: LayerCache | None, mask: Mask | None
    ) -> AllSavedTensors:
        """All that the backward pass needs."""
        tokens = x.shape[0] * x.shape[1]
        statistics_1, statistics_2 = np.empty((tokens, 2)), np.empty((tokens, 2))
        qkv = self.attn.c_attn(self.ln_1(x, statistics_1))
        mixed = self.attn.mix(qkv, cache, mask)
        middle = x + self.attn.c_proj(mixed)
        normed = self.ln_2(middle, statistics_2)
        hidden = None if self.mlp.checkpoint else self.mlp.expand(normed)
        return AllSavedTensors(x, qkv, mixed, middle, hidden, statistics_1, statistics_2)

    def _sequences_at_once(self, x: Floating) -> int:
        """As many as make up a chunk where weights are compressed, and as the limit allows."""
        count, (_, seq, width) = len(x), x.shape
        if is_packed(self.attn.c_attn.weight):
            count = CHUNK_TOKENS // seq
        if self._memory_limit is not None:
            sequence = _COPIES * seq * width * np.result_type(x, np.float32).itemsize
            # The other half of the limit is the feed-forward part's.
            count = min(count, self._memory_limit // 2 // sequence)
        return max(1, count)
