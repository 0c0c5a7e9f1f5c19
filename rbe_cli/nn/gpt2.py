"""The whole model (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners")."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding
from rbe_cli.nn.attention_layer import Attention, score_scale
from rbe_cli.nn.embedding import Embedding
from rbe_cli.nn.feed_forward_layer import FeedForward
from rbe_cli.nn.kv_cache import KVCache, LayerCache
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.observer import GradientObserver, Observer
from rbe_cli.nn.tape import Tape
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.runtime.arrays import Floating, Int64, Mask
from rbe_cli.weights.weight_forms import Weight


class Gpt2:
    """GPT-2 with a language-model head.

    Attributes:
        config: shapes and options.
        wte, wpe: token and position embeddings.
        blocks: the `n_layer` transformer blocks.
        ln_f: the last LayerNorm.
        head: `[n_embd, vocab_size]`, without bias.
        kernels: what computes.
    """

    def __init__(self, config: Gpt2Config, tensors: Mapping[str, Weight], kernels: Kernels) -> None:
        """Assemble the model.

        Args:
            config: shapes and options.
            tensors: canonical name -> vector, dense matrix or panels; all matrices
                `[inputs, outputs]`, so embeddings and head `[n_embd, rows]`. Each is read once.
                The blocks' matrices may still be entropy-coded.
            kernels: what computes.
        """
        self.config = config
        self.kernels = kernels
        wte = tensors["wte.weight"]
        self.wte = Embedding("wte.weight", wte)
        self.wpe = Embedding("wpe.weight", tensors["wpe.weight"])
        self.blocks = [self._block(layer, tensors) for layer in range(config.n_layer)]
        self.ln_f = self._layer_norm("ln_f", tensors)
        name = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
        head = wte if config.tie_word_embeddings else tensors[name]
        self.head = Linear(name, head, None, kernels)

    @classmethod
    def from_checkpoint(
        cls, config: Gpt2Config, tensors: Mapping[str, Floating], kernels: Kernels
    ) -> "Gpt2":
        """A dense model from a checkpoint's tensors, which store embeddings `[rows, n_embd]`."""
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
    ) -> Floating:
        """Logits of the next token after each token.

        Args:
            tokens: ids `[batch, seq]`.
            cache: continues the sequences it holds, and keeps the new keys and values. None
                computes whole sequences.
            rows: int64 `[batch]`, the cache's row of each sequence, none twice; None for the
                first `batch`. They may hold different numbers of tokens.
            last_only: only the logits after each sequence's last token.
            observe: sees the linear layers' inputs and the blocks' outputs.
            mask: as of `Attention`, such as `[batch, 1, 1, length]` of what is no padding.

        Returns:
            `[batch, seq, vocab_size]`, or `[batch, vocab_size]` if `last_only`.

        Raises:
            UsageError: there are no tokens, an id is outside the vocabulary, or a sequence
                becomes longer than `n_positions`.
        """
        x = self.hidden(tokens, cache, rows, observe, mask)
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
    ) -> Floating:
        """The last block's output `[batch, seq, n_embd]`; arguments and errors as of `forward`."""
        batch, seq = tokens.shape
        if rows is None:
            rows = np.arange(batch)
        starts = np.zeros(batch, np.int64) if cache is None else cache.lengths[rows]
        self.check(tokens, starts)
        layers: Sequence[LayerCache | None] = [None] * len(self.blocks)
        if cache is not None:
            layers = cache.layers(rows, seq)
        x = self.embed(tokens, starts)
        for index, (block, layer) in enumerate(zip(self.blocks, layers, strict=True)):
            x = block(x, layer, observe, mask=mask)
            if observe is not None:
                observe(f"h.{index}", x)
        if cache is not None:
            cache.advance(rows, seq)
        return x

    def record(self, tokens: Int64, tape: Tape, mask: Mask | None = None) -> Floating:
        """The last block's output of whole sequences, recorded for `backward`.

        Args:
            tokens: ids `[batch, seq]`.
            tape: takes what the backward pass needs.
            mask: as of `forward`.

        Raises:
            UsageError: as `forward`.
            OSError: the tape cannot be written.
        """
        self.check(tokens, np.zeros(len(tokens), np.int64))
        x = self.embed(tokens)
        for block in self.blocks:
            x, saved = block.record(x, mask=mask, checkpoint=tape.checkpoint)
            tape.append(saved)
        tape.tokens, tape.hidden = tokens, x
        return x

    def logits(self, hidden: Floating, observe: Observer | None = None) -> Floating:
        """The last block's output `[..., n_embd]` -> `[..., vocab_size]`."""
        return self.head(self.ln_f(hidden), observe)

    def embed(self, tokens: Int64, starts: Int64 | None = None) -> Floating:
        """Ids `[batch, seq]` -> `[batch, seq, n_embd]`; sequences begin at positions `starts`."""
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
        """Gradient with respect to the sum of the two embeddings, `[batch, seq, n_embd]`.

        Args:
            tape: a forward pass, as `record` left it; it is used up.
            grad: `[batch, seq, vocab_size]`, with respect to the logits.
            observe: sees all layers that have parameters.
            mask: as of the forward pass.

        Raises:
            UsageError: the tape holds no forward pass.
        """
        _, hidden = tape.outcome()
        grad = self.logits_backward(hidden, grad, observe)
        return self.hidden_backward(tape, grad, observe, mask)

    def logits_backward(
        self, hidden: Floating, grad: Floating, observe: GradientObserver | None = None
    ) -> Floating:
        """Gradient `[..., n_embd]` with respect to the last block's output.

        Args:
            hidden: the last block's output `[..., n_embd]`.
            grad: `[..., vocab_size]`, with respect to the logits.
            observe: sees the head and the last LayerNorm.
        """
        final = self.ln_f(hidden)
        return self.ln_f.backward(hidden, self.head.backward(final, grad, observe), observe)

    def hidden_backward(
        self,
        tape: Tape,
        grad: Floating,
        observe: GradientObserver | None = None,
        mask: Mask | None = None,
    ) -> Floating:
        """The rest of `backward`, from the gradient of the last block's output."""
        tokens, _ = tape.outcome()
        for block in reversed(self.blocks):
            grad = block.backward(tape.pop(), grad, observe, mask=mask)
        if observe is not None:
            observe.embedding(self.wte, tokens, grad)
            positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
            observe.embedding(self.wpe, positions, grad)
        return grad

    def linears(self) -> Iterator[Linear]:
        """The linear layers in order of use, the head last."""
        for block in self.blocks:
            yield from (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
        yield self.head

    def check(self, tokens: Int64, starts: Int64) -> None:
        """Refuse ids `[batch, seq]` after `starts` `[batch]` tokens; errors as of `forward`."""
        if tokens.size == 0:
            raise UsageError("there are no tokens to compute")
        vocab = self.config.vocab_size
        outside = tokens[(tokens < 0) | (tokens >= vocab)]
        if outside.size:
            raise UsageError(f"token id {outside[0]} is outside the vocabulary of {vocab} tokens")
        length, limit = int(starts.max()) + tokens.shape[1], self.config.n_positions
        if length > limit:
            raise UsageError(f"{length} tokens are more than the model's context of {limit}")

    def _block(self, layer: int, tensors: Mapping[str, Weight]) -> TransformerBlock:
        prefix = f"h.{layer}"
        attention = Attention(
            self._linear(f"{prefix}.attn.c_attn", tensors),
            self._linear(f"{prefix}.attn.c_proj", tensors),
            self.config.n_head,
            score_scale(self.config, layer),
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

    def _linear(self, name: str, tensors: Mapping[str, Weight]) -> Linear:
        bias = cast(Floating, tensors[f"{name}.bias"])
        return Linear(f"{name}.weight", tensors[f"{name}.weight"], bias, self.kernels)

    def _layer_norm(self, name: str, tensors: Mapping[str, Weight]) -> LayerNorm:
        gamma = cast(Floating, tensors[f"{name}.weight"])
        beta = cast(Floating, tensors[f"{name}.bias"])
        return LayerNorm(
            f"{name}.weight", gamma, beta, self.config.layer_norm_epsilon, self.kernels
        )
