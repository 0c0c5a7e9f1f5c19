"""Assemble the whole model.

Its source is Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.memory_needs import check_available
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding
from rbe_cli.model.token_ids import check_tokens
from rbe_cli.nn.attention_layer import Attention
from rbe_cli.nn.embedding import Embedding
from rbe_cli.nn.feed_forward_layer import FeedForward
from rbe_cli.nn.kv_cache import KVCache, LayerCache
from rbe_cli.nn.layer import Layer
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.layer_norm_parameters import LayerNormParameter
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.memory_usage import MemoryUsage
from rbe_cli.nn.named_weights import NamedWeights, check_weights, rotation_of
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.nn.operation_counts import linear_operations, norm_operations
from rbe_cli.nn.output_layer import OutputLayer
from rbe_cli.nn.shape_checks import check_shape
from rbe_cli.nn.streamed_blocks import StreamedBlocks
from rbe_cli.nn.tape import Tape
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.runtime.arrays import Floating, Int64, Mask
from rbe_cli.weights.weight_forms import Weight


class Gpt2(Layer):
    """Compute GPT-2 with a language-model head.

    Attributes:
        config: shapes and options.
        wte, wpe: token and position embeddings.
        blocks: the `n_layer` transformer blocks. Those of a streamed model are built anew each
            time they are asked for.
        ln_f: the last LayerNorm.
        head: `[n_embd, vocab_size]`, without bias.
        rotation: of the residual stream; None if it was not rotated. `hidden` and the blocks'
            outputs are those of the rotated stream; `unrotated` gives those of the checkpoint.
        kernels: what computes.
    """

    def __init__(
        self,
        config: Gpt2Config,
        tensors: NamedWeights,
        kernels: Kernels,
        *,
        streamed: bool = False,
    ) -> None:
        """Assemble the model.

        Args:
            config: shapes and options.
            tensors: canonical name -> vector, dense matrix or compressed matrix; all matrices
                `[inputs, outputs]`, so embeddings and head `[n_embd, rows]`. Each is read once.
                The LayerNorms' vectors may be compressed, and the blocks' matrices may still
                be entropy-coded.
            kernels: what computes.
            streamed: keep no layer in memory. A layer's tensors are read, and their shapes
                checked, each time it is used (`weights/on_demand.py`).

        Raises:
            UsageError: a tensor is missing, or has another shape than the config says.
        """
        super().__init__("the model", kernels)
        if not streamed:
            check_weights(config, tensors)
        self.config = config
        wte = _matrix(tensors, "wte.weight")
        self.wte = Embedding("wte.weight", wte, kernels)
        self.wpe = Embedding("wpe.weight", _matrix(tensors, "wpe.weight"), kernels)
        self.blocks: Sequence[TransformerBlock] = StreamedBlocks(
            config.n_layer, lambda layer: self._block(layer, tensors)
        )
        if not streamed:
            self.blocks = list(self.blocks)
        self.ln_f = self._layer_norm("ln_f", tensors)
        name = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
        head = wte if config.tie_word_embeddings else _matrix(tensors, name)
        self.head = Linear(name, head, None, kernels)
        self.rotation = rotation_of(tensors)

    @property
    def output_layer(self) -> OutputLayer:
        """Return what follows the last block."""
        return OutputLayer(self.ln_f, self.head, self.rotation)

    @classmethod
    def from_checkpoint(
        cls, config: Gpt2Config, tensors: Mapping[str, Floating], kernels: Kernels
    ) -> "Gpt2":
        """Return a dense model of a checkpoint's tensors.

        Args:
            config: shapes and options.
            tensors: by canonical name; embeddings and head are `[rows, n_embd]`.
            kernels: what computes.

        Raises:
            UsageError: as of `Gpt2`.
        """
        matrices = {
            name: tensor.T if is_embedding(name) else tensor for name, tensor in tensors.items()
        }
        return cls(config, matrices, kernels)

    def forward(
        self,
        tokens: Int64,
        cache: KVCache | None = None,
        rows: Int64 | None = None,
        *,
        last_only: bool = False,
        observe: Observer | None = None,
        mask: Mask | None = None,
        weights: Mapping[int, Floating] | None = None,
    ) -> Floating:
        """Return the logits of the next token after each token.

        Args:
            tokens: ids `[batch, seq]`.
            cache: continues the sequences it holds, and keeps the new keys and values. None
                computes whole sequences.
            rows: int64 `[batch]`, the cache's row of each sequence, none twice; None for the
                first `batch`. They may hold different numbers of tokens.
            last_only: only the logits after each sequence's last token.
            observe: sees the linear layers' inputs and the blocks' outputs.
            mask: as of `Attention`, such as `[batch, 1, 1, length]` of what is no padding.
            weights: arrays `[batch, n_head, seq, length]` by layer, from 0; each takes what its
                layer's queries attend to. `attention_weights` makes them.

        Returns:
            `[batch, seq, vocab_size]`, or `[batch, vocab_size]` if `last_only`.

        Raises:
            UsageError: there are no tokens, an id is outside the vocabulary, a sequence becomes
                longer than `n_positions`, or an array has a wrong shape.
        """
        with self._counted(lambda: self._operations(tokens, cache, rows, last_only)):
            x = self.hidden(tokens, cache, rows, observe, mask, weights)
            if last_only:
                x = x[:, -1]  # [batch, n_embd]
            return self.logits(x, observe)

    def hidden(
        self,
        tokens: Int64,
        cache: KVCache | None = None,
        rows: Int64 | None = None,
        observe: Observer | None = None,
        mask: Mask | None = None,
        weights: Mapping[int, Floating] | None = None,
    ) -> Floating:
        """Return the last block's output `[batch, seq, n_embd]`; the rest is as of `forward`."""
        check_shape("the token ids", tokens.shape, ("batch", "seq"))
        batch, seq = tokens.shape
        weights = {} if weights is None else weights
        self._check_layers(weights)
        rows = np.arange(batch) if rows is None else rows
        check_shape("the cache's row numbers", rows.shape, (batch,))
        starts = np.zeros(batch, np.int64) if cache is None else cache.lengths[rows]
        check_tokens(self.config, tokens, starts)
        layers: Sequence[LayerCache | None] = [None] * len(self.blocks)
        if cache is not None:
            layers = cache.layers(rows, seq)
        x = self.embed(tokens, starts)
        for index, (block, layer) in enumerate(zip(self.blocks, layers, strict=True)):
            x = block(x, layer, observe, mask=mask, weights=weights.get(index))
            if observe is not None:
                observe(f"h.{index}", x)
        if cache is not None:
            cache.advance(rows, seq)
        return x

    def attention_weights(
        self,
        tokens: Int64,
        layers: Iterable[int] | None = None,
        mask: Mask | None = None,
    ) -> dict[int, Floating]:
        """Return what each query of whole sequences attends to, in a forward pass of its own.

        Args:
            tokens: ids `[batch, seq]`.
            layers: the layers that are asked for, from 0; None for all.
            mask: as of `forward`.

        Returns:
            `[batch, n_head, seq, seq]` by layer; each query's weights sum to 1, or to 0 where
            the mask lets it see nothing.

        Raises:
            UsageError: as `forward`, or the model has no such layer.
        """
        check_shape("the token ids", tokens.shape, ("batch", "seq"))
        batch, seq = tokens.shape
        wanted = range(len(self.blocks)) if layers is None else layers
        shape, kind = (batch, self.config.n_head, seq, seq), self.ln_f.norm.gamma.dtype
        found: dict[int, Floating] = {layer: np.empty(shape, kind) for layer in wanted}
        self.hidden(tokens, mask=mask, weights=found)
        return found

    def record(self, tokens: Int64, tape: Tape, mask: Mask | None = None) -> Floating:
        """Return the last block's output of whole sequences, recorded for `backward`.

        Args:
            tokens: ids `[batch, seq]`.
            tape: takes what the backward pass needs.
            mask: as of `forward`.

        Raises:
            UsageError: as `forward`.
            OSError: the tape cannot be written.
        """
        check_shape("the token ids", tokens.shape, ("batch", "seq"))
        check_tokens(self.config, tokens, np.zeros(len(tokens), np.int64))
        x = self.embed(tokens)
        for block in self.blocks:
            x, saved = block.record(x, mask=mask, checkpoint=tape.checkpoint)
            tape.append(saved)
        tape.tokens, tape.hidden = tokens, x
        return x

    def logits(self, hidden: Floating, observe: Observer | None = None) -> Floating:
        """Return the logits `[..., vocab_size]` of the last block's output `[..., n_embd]`.

        Raises:
            MemoryRefusedError: there is too little memory for them.
        """
        tokens = hidden.size // hidden.shape[-1]
        check_available(f"for the logits of {tokens} tokens", 4 * tokens * self.config.vocab_size)
        return self.output_layer(hidden, observe)

    def embed(self, tokens: Int64, starts: Int64 | None = None) -> Floating:
        """Return the sum of both embeddings, `[batch, seq, n_embd]`.

        Args:
            tokens: ids `[batch, seq]`.
            starts: `[batch]`, the positions at which the sequences begin; None for 0.
        """
        positions = np.arange(tokens.shape[1])
        if starts is not None:
            positions = starts[:, None] + positions  # [batch, seq]
        return self.wte(tokens) + self.wpe(positions)

    def backward(
        self,
        tape: Tape,
        grad: Floating,
        observe: GradientObserver | None = None,
        mask: Mask | None = None,
    ) -> Floating:
        """Return the gradient `[batch, seq, n_embd]` with respect to the sum of both embeddings.

        Args:
            tape: a forward pass, as `record` left it; it is used up.
            grad: `[batch, seq, vocab_size]`, with respect to the logits.
            observe: sees all layers that have parameters.
            mask: as in the forward pass.

        Raises:
            UsageError: the gradient has a wrong shape, or the tape holds no forward pass.
        """
        _, hidden = tape.outcome()
        grad = self.logits_backward(hidden, grad, observe)
        return self.hidden_backward(tape, grad, observe, mask)

    def logits_backward(
        self, hidden: Floating, grad: Floating, observe: GradientObserver | None = None
    ) -> Floating:
        """Return the gradient `[..., n_embd]` with respect to the last block's output.

        Args:
            hidden: the last block's output `[..., n_embd]`.
            grad: `[..., vocab_size]`, with respect to the logits.
            observe: sees the head and the last LayerNorm.
        """
        output = self.output_layer
        return output.backward(hidden, output.normed(hidden), grad, observe, observe)

    def hidden_backward(
        self,
        tape: Tape,
        grad: Floating,
        observe: GradientObserver | None = None,
        mask: Mask | None = None,
    ) -> Floating:
        """Do the rest of `backward`, from the gradient of the last block's output."""
        tokens, _ = tape.outcome()
        for block in reversed(self.blocks):
            grad = block.backward(tape.pop(), grad, observe, mask=mask)
        self.wte.backward(tokens, grad, observe)
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        self.wpe.backward(positions, grad, observe)
        return grad

    def parts(self) -> Iterator[tuple[str, Layer]]:
        """Yield the embeddings, the blocks, the last LayerNorm and the head."""
        yield "wte", self.wte
        yield "wpe", self.wpe
        for layer, block in enumerate(self.blocks):
            yield f"h.{layer}", block
        yield "ln_f", self.ln_f
        yield "lm_head", self.head

    def memory_usage(self) -> MemoryUsage:
        """Return what all parameters take; a head that is tied to the embedding counts once.

        The matrix of a rotated residual stream is a decoded copy.
        """
        parts = [part for _, part in self.parts() if part is not self.head]
        if not self.config.tie_word_embeddings:
            parts.append(self.head)
        kept = MemoryUsage(
            decoded_bytes=0 if self.rotation is None else self.rotation.matrix.nbytes
        )
        return sum((part.memory_usage() for part in parts), kept)

    def linears(self) -> Iterator[Linear]:
        """Yield the linear layers in order of use, the head last."""
        for block in self.blocks:
            yield from (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
        yield self.head

    def _check_layers(self, layers: Iterable[int]) -> None:
        for layer in layers:
            if not 0 <= layer < len(self.blocks):
                raise UsageError(f"layer {layer} is not one of the {len(self.blocks)} layers")

    def _operations(
        self, tokens: Int64, cache: KVCache | None, rows: Int64 | None, last_only: bool
    ) -> int:
        """Return the floating-point operations of a forward pass."""
        batch, seq = tokens.shape
        rows = np.arange(batch) if rows is None else rows
        starts = [0] * batch if cache is None else [int(own) for own in cache.lengths[rows]]
        count = batch if last_only else batch * seq
        blocks = sum(block.operations(batch, seq, starts) for block in self.blocks)
        width = self.config.n_embd
        turning = 0 if self.rotation is None else 2 * linear_operations(count, width**2)
        return blocks + norm_operations(count * width) + turning + self.head.operations(count)

    def _block(self, layer: int, tensors: NamedWeights) -> TransformerBlock:
        prefix = f"h.{layer}"
        attention = Attention(
            self._linear(f"{prefix}.attn.c_attn", tensors),
            self._linear(f"{prefix}.attn.c_proj", tensors),
            self.config.n_head,
            self.config.score_scale(layer),
            self.kernels,
        )
        feed_forward = FeedForward(
            self._linear(f"{prefix}.mlp.c_fc", tensors),
            self._linear(f"{prefix}.mlp.c_proj", tensors),
            self.config.activation_function,
            self.kernels,
        )
        return TransformerBlock(
            self._layer_norm(f"{prefix}.ln_1", tensors),
            attention,
            self._layer_norm(f"{prefix}.ln_2", tensors),
            feed_forward,
        )

    def _linear(self, name: str, tensors: NamedWeights) -> Linear:
        bias = cast(Floating, tensors[f"{name}.bias"])
        return Linear(f"{name}.weight", _matrix(tensors, f"{name}.weight"), bias, self.kernels)

    def _layer_norm(self, name: str, tensors: NamedWeights) -> LayerNorm:
        return LayerNorm(
            f"{name}.weight",
            self.config.n_embd,
            self.kernels,
            gamma=cast(LayerNormParameter, tensors[f"{name}.weight"]),
            beta=cast(LayerNormParameter, tensors[f"{name}.bias"]),
            eps=self.config.layer_norm_epsilon,
        )


def _matrix(tensors: NamedWeights, name: str) -> Weight:
    return cast(Weight, tensors[name])
