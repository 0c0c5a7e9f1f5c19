"""One forward pass over a sequence: logits, hidden states, the likeliest next tokens."""

import tracemalloc
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.loss import log_softmax
from rbe_cli.nn.profile import LayerProfile

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class ForwardPass:
    """What the model makes of a sequence.

    Attributes:
        tokens: int64 `[n]`.
        logits: float32 `[n, vocab_size]`, of the token after each.
        hidden: output of each block, float32 `[n, n_embd]`, under `h.0`, `h.1`, ...
    """

    tokens: NDArray[np.int64]
    logits: Float32
    hidden: dict[str, Float32]

    @property
    def loss(self) -> float | None:
        """Mean cross-entropy of the sequence's own tokens, in nats; None for a single token."""
        if self.tokens.size < 2:
            return None
        scored = log_softmax(self.logits[:-1])  # [n - 1, vocab]
        return -float(np.take_along_axis(scored, self.tokens[1:, None], -1).mean(dtype=np.float64))

    def likeliest(self, count: int) -> list[tuple[int, float]]:
        """(token, probability) of the likeliest next tokens, likeliest first."""
        probabilities = np.exp(log_softmax(self.logits[-1]))
        order = np.argsort(-probabilities, kind="stable")[:count]
        return [(int(token), float(probabilities[token])) for token in order]


def profiled(model: Gpt2, tokens: NDArray[np.int64]) -> list[LayerProfile]:
    """What each layer takes in a second forward pass over `[n]` tokens.

    A first one makes what is made once. LayerNorms run apart from the products that they are
    otherwise fused with.

    Raises:
        UsageError: the sequence is longer than the context.
    """
    model.hidden(tokens[None])
    model.kernels.buffers.clear()
    profiles = [LayerProfile(layer) for layer in range(len(model.blocks))]
    for block, profile in zip(model.blocks, profiles, strict=True):
        block.profile = profile
    tracemalloc.start()
    try:
        model.hidden(tokens[None])
    finally:
        tracemalloc.stop()
        for block in model.blocks:
            block.profile = None
    return profiles


def forward(model: Gpt2, tokens: NDArray[np.int64], keep_hidden: bool) -> ForwardPass:
    """Run the stack once over `[n]` tokens.

    Raises:
        UsageError: the sequence is longer than the context.
    """
    hidden: dict[str, Float32] = {}

    def observe(name: str, values: Float32) -> None:
        if not name.endswith(".weight"):
            hidden[name] = values[0].copy()  # [1, n, n_embd] -> [n, n_embd]

    logits = model.forward(tokens[None], observe=observe if keep_hidden else None)[0]
    return ForwardPass(tokens, logits, hidden)
