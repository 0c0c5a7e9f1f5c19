"""Compute one layer of the stack."""

from collections.abc import Iterator, Sequence

import numpy as np

from rbe_cli.nn.attention_layer import Attention
from rbe_cli.nn.feed_forward_layer import FeedForward
from rbe_cli.nn.kv_cache import LayerCache, starts_of
from rbe_cli.nn.layer import Layer
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import CHUNK_TOKENS
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.nn.operation_counts import norm_operations
from rbe_cli.nn.shape_checks import check_shape
from rbe_cli.nn.tape import AllSavedTensors, SavedTensors
from rbe_cli.runtime.arrays import Floating, Mask
from rbe_cli.weights.weight_forms import is_packed

_COPIES = 10  # of a sequence: qkv, the heads' output, keys, values, both sums, rounded ones


class TransformerBlock(Layer):
    """Compute a pre-norm residual block (Radford et al. 2019, section 2.3).

    It is x + attn(ln_1(x)), then the same with mlp and ln_2.

    Attributes:
        fuses_layers: make each LayerNorm whose variant is `fused` part of the product that
            follows, so that what it returns is never whole in memory. Passes that are observed
            or recorded fuse nothing.

    Raises:
        UsageError: the parts are of different widths.
    """

    def __init__(self, ln_1: LayerNorm, attn: Attention, ln_2: LayerNorm, mlp: FeedForward) -> None:
        super().__init__(ln_1.name.rpartition(".ln_1")[0] or "block", attn.kernels)
        for norm in (ln_1, ln_2):
            check_shape(f"{self.name}: the LayerNorm {norm.name}", norm.shape, (attn.width,))
        check_shape(f"{self.name}: the feed-forward part's input", (mlp.width,), (attn.width,))
        self.ln_1 = ln_1
        self.attn = attn
        self.ln_2 = ln_2
        self.mlp = mlp
        self.fuses_layers = True
        self._memory_limit: int | None = None

    @property
    def memory_limit(self) -> int | None:
        """Return the bytes that inner arrays may take at once; None for no limit.

        Sequences then go through in groups, at least one at a time, and the feed-forward part's
        tokens in chunks. Passes that are observed or recorded are not limited.
        """
        return self._memory_limit

    @memory_limit.setter
    def memory_limit(self, limit: int | None) -> None:
        self._memory_limit = limit
        self.mlp.memory_limit = None if limit is None else limit // 2

    def parts(self) -> Iterator[tuple[str, Layer]]:
        """Yield the LayerNorms, the attention and the feed-forward part."""
        yield "ln_1", self.ln_1
        yield "attn", self.attn
        yield "ln_2", self.ln_2
        yield "mlp", self.mlp

    def __call__(
        self,
        x: Floating,
        cache: LayerCache | None = None,
        observe: Observer | None = None,
        *,
        mask: Mask | None = None,
        weights: Floating | None = None,
    ) -> Floating:
        """Return the output `[batch, seq, d]` for x of the same shape.

        Args:
            x: input.
            cache: takes the new keys and values, and is attended to; None for whole sequences.
            observe: sees the linear layers' inputs.
            mask: as of `Attention`.
            weights: `[batch, heads, seq, length]`, takes what each query attends to.

        Raises:
            UsageError: an array has a wrong shape.
        """
        self._check(x)
        batch, seq, _ = x.shape
        with self._counted(lambda: self.operations(batch, seq, starts_of(cache))):
            count = self._sequences_at_once(x)
            if count >= len(x) or observe is not None:
                return self._forward(x, cache, observe, mask, weights)
            out = np.empty(x.shape, np.result_type(x, np.float32))
            for start in range(0, len(x), count):
                group = slice(start, start + count)
                out[group] = self._forward(
                    x[group],
                    None if cache is None else cache.of(group),
                    observe,
                    None if mask is None else mask[group],
                    None if weights is None else weights[group],
                )
            return out

    def _forward(
        self,
        x: Floating,
        cache: LayerCache | None,
        observe: Observer | None,
        mask: Mask | None,
        weights: Floating | None,
    ) -> Floating:
        can_fuse = self.fuses_layers and observe is None
        if can_fuse and self.ln_1.variant == "fused":
            middle = self.attn(x, cache, norm=self.ln_1.norm, mask=mask, weights=weights)
        else:
            middle = self.attn(self.ln_1(x), cache, observe, mask=mask, weights=weights)
        middle += x
        if can_fuse and self.ln_2.variant == "fused":
            out = self.mlp(middle, norm=self.ln_2.norm)
        else:
            out = self.mlp(self.ln_2(middle), observe)
        out += middle
        return out

    def record(
        self,
        x: Floating,
        cache: LayerCache | None = None,
        *,
        mask: Mask | None = None,
        checkpoint: bool = False,
    ) -> tuple[Floating, SavedTensors]:
        """Return the output `[batch, seq, d]`, and what the backward pass needs.

        Args:
            x: input.
            cache, mask: as of a call.
            checkpoint: keep x alone; the rest is computed again in the backward pass.

        Raises:
            UsageError: an array has a wrong shape.
        """
        if checkpoint:
            return self(x, cache, mask=mask), SavedTensors(x)
        self._check(x)
        batch, seq, _ = x.shape
        with self._counted(lambda: self.operations(batch, seq, starts_of(cache))):
            saved = self._recomputed(x, cache, mask)
            if saved.hidden is None:
                out = self.mlp(self.ln_2(saved.middle))
            else:
                out = self.mlp.contract(saved.hidden)
            return saved.middle + out, saved

    def backward(
        self,
        saved: SavedTensors,
        grad: Floating,
        observe: GradientObserver | None = None,
        *,
        mask: Mask | None = None,
    ) -> Floating:
        """Return the gradient with respect to x of whole sequences, `[batch, seq, d]`.

        Args:
            saved: by the forward pass.
            grad: `[batch, seq, d]`, with respect to the output.
            observe: sees the linear layers and the LayerNorms.
            mask: as in the forward pass.

        Raises:
            UsageError: an array has a wrong shape.
        """
        x = saved.x
        self._check(x)
        check_shape(f"{self.name}: the gradient of the output", grad.shape, x.shape)
        batch, seq, _ = x.shape
        with self._counted(lambda: self.operations(batch, seq, backward=True), backward=True):
            if not isinstance(saved, AllSavedTensors):
                saved = self._recomputed(x, None, mask)
            middle = saved.middle
            through_mlp = self.mlp.backward(self.ln_2(middle), grad, observe, saved.hidden)
            grad = grad + self.ln_2.backward(middle, through_mlp, observe, saved.statistics_2)
            through_attn = self.attn.backward(
                self.ln_1(x), saved.qkv, saved.attended, grad, observe, mask
            )
            return grad + self.ln_1.backward(x, through_attn, observe, saved.statistics_1)

    def operations(
        self,
        batch: int,
        seq: int,
        starts: Sequence[int] | None = None,
        *,
        backward: bool = False,
    ) -> int:
        """Return the floating-point operations of a call; arguments as of `Attention`."""
        elements = batch * seq * self.attn.width
        return (
            2 * norm_operations(elements, backward)
            + self.attn.operations(batch, seq, starts, backward=backward)
            + self.mlp.operations(batch * seq, backward=backward)
        )

    def _check(self, x: Floating) -> None:
        check_shape(f"{self.name}: the input", x.shape, ("batch", "seq", self.attn.width))

    def _recomputed(
        self, x: Floating, cache: LayerCache | None, mask: Mask | None
    ) -> AllSavedTensors:
        """Return all that the backward pass needs."""
        tokens = x.shape[0] * x.shape[1]
        statistics_1, statistics_2 = np.empty((tokens, 2)), np.empty((tokens, 2))
        qkv = self.attn.c_attn(self.ln_1(x, statistics_1))
        attended = self.attn.attend(qkv, cache, mask)
        middle = x + self.attn.c_proj(attended)
        normed = self.ln_2(middle, statistics_2)
        hidden = None if self.mlp.checkpoint else self.mlp.expand(normed)
        return AllSavedTensors(x, qkv, attended, middle, hidden, statistics_1, statistics_2)

    def _sequences_at_once(self, x: Floating) -> int:
        """Return as many as make up a chunk of compressed weights, and as the limit allows."""
        count, (_, seq, width) = len(x), x.shape
        if is_packed(self.attn.c_attn.weight):
            count = CHUNK_TOKENS // max(seq, 1)
        if self._memory_limit is not None:
            sequence = _COPIES * max(seq, 1) * width * np.result_type(x, np.float32).itemsize
            # The other half of the limit is the feed-forward part's.
            count = min(count, self._memory_limit // 2 // sequence)
        return max(1, count)
