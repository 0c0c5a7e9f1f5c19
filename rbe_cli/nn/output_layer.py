"""Compute logits from the last block's output: LayerNorm, and the product with the head."""

from dataclasses import dataclass

from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.runtime.arrays import Floating


@dataclass(frozen=True)
class OutputLayer:
    """Hold the last LayerNorm and the head."""

    norm: LayerNorm
    head: Linear

    def __call__(self, states: Floating) -> Floating:
        """Return the logits `[n, vocab_size]` of the last block's outputs `[n, d]`."""
        return self.head(self.norm(states))
