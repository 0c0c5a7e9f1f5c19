"""Run one forward pass over a sequence: logits, hidden states, the likeliest next tokens."""

import tracemalloc
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.stream_rotation import StreamRotation, unrotated
from rbe_cli.evaluation.batching import logit_chunks
from rbe_cli.evaluation.means import Mean, mean_of
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.loss import log_softmax
from rbe_cli.nn.observer import Observer
from rbe_cli.nn.profile import LayerProfile

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Network(Protocol):
    """Say what a forward pass needs of a model, on a CPU or a GPU."""

    @property
    def rotation(self) -> StreamRotation | None:
        """Return the rotation of the blocks' outputs; None for those of the checkpoint."""

    def forward(
        self, tokens: NDArray[np.int64], *, observe: Observer | None = None
    ) -> NDArray[np.floating]:
        """Return the logits `[batch, seq, vocab_size]` of `[batch, seq]` tokens; as of `Gpt2`."""


@dataclass(frozen=True)
class ForwardPass:
    """Hold what the model computes for a sequence.

    Attributes:
        tokens: int64 `[n]`.
        logits: float32 `[n, vocab_size]`, of the token after each.
        hidden: output of each block, float32 `[n, n_embd]`, under `h.0`, `h.1`, ...
    """

    tokens: NDArray[np.int64]
    logits: Float32
    hidden: dict[str, Float32]

    def logprobs(self) -> Float64:
        """Return the log-probabilities of the sequence's tokens from the second on, `[n - 1]`."""
        found = np.empty(self.tokens.size - 1)
        for part in logit_chunks(found.size, 2 * self.logits.shape[-1]):
            scored = log_softmax(self.logits[:-1][part].astype(np.float64))
            found[part] = np.take_along_axis(scored, self.tokens[1:][part, None], -1)[:, 0]
        return found

    def ranks(self) -> NDArray[np.int64]:
        """Return the ranks of these tokens by probability among all, `[n - 1]`; 1 is the best.

        Tokens of the same probability share the best place.
        """
        own = np.take_along_axis(self.logits[:-1], self.tokens[1:, None], -1)  # [n - 1, 1]
        return 1 + np.count_nonzero(self.logits[:-1] > own, axis=-1)

    @property
    def loss(self) -> Mean | None:
        """Return the mean cross-entropy of the sequence's tokens, in nats; None for one token."""
        if self.tokens.size < 2:
            return None
        return mean_of(-self.logprobs(), np.array([self.tokens.size - 1]))

    def likeliest(self, count: int) -> list[tuple[int, float]]:
        """Return (token, probability) of the likeliest next tokens, likeliest first."""
        probabilities = np.exp(log_softmax(self.logits[-1]))
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(int(token), float(probabilities[token])) for token in order]


def profiled(model: Gpt2, tokens: NDArray[np.int64]) -> list[LayerProfile]:
    """Return the time of each layer's parts in a forward pass over `[n]` tokens, and its memory.

    A first pass makes what is made once, a second one is timed, and in a third one memory is
    traced, which takes time itself. LayerNorms run apart from the products that they are
    otherwise fused with. The model's statistics are off afterwards.

    Raises:
        UsageError: the sequence is longer than the context.
    """
    for block in model.blocks:
        block.fuses_layers = False
    try:
        model.hidden(tokens[None])
        model.enable_stats()
        model.hidden(tokens[None])
        profiles = [LayerProfile.of_block(layer, block) for layer, block in enumerate(model.blocks)]
        model.enable_stats()
        tracemalloc.start()
        try:
            model.hidden(tokens[None])
        finally:
            tracemalloc.stop()
        return [
            replace(profile, peak_memory_bytes=LayerProfile.of_block(0, block).peak_memory_bytes)
            for profile, block in zip(profiles, model.blocks, strict=True)
        ]
    finally:
        model.disable_stats()
        for block in model.blocks:
            block.fuses_layers = True


def forward(model: Network, tokens: NDArray[np.int64], keep_hidden: bool) -> ForwardPass:
    """Run the stack once over `[n]` tokens.

    Raises:
        UsageError: the sequence is longer than the context.
    """
    hidden: dict[str, Float32] = {}
    rotation = model.rotation

    def observe(name: str, values: Float32) -> None:
        if not name.endswith(".weight"):
            hidden[name] = unrotated(rotation, values[0].copy())  # [1, n, d] -> [n, d]

    logits = model.forward(tokens[None], observe=observe if keep_hidden else None)[0]
    return ForwardPass(tokens, logits, hidden)
