"""Let a caller look at inputs, outputs and gradients while a model computes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from rbe_cli.runtime.arrays import Float64, Floating, Int64

if TYPE_CHECKING:
    from rbe_cli.nn.embedding import Embedding
    from rbe_cli.nn.layer_norm_layer import LayerNorm
    from rbe_cli.nn.linear_layer import Linear

Observer = Callable[[str, Floating], None]
"""Is called with a name and an array, which must not be changed and may be reused afterwards:

- the name of each linear layer's weight (`h.0.attn.c_attn.weight`, ...; the head's is
  `wte.weight` if tied, else `lm_head.weight`), with the layer's input `[tokens, K]`;
- `h.0`, `h.1`, ..., with the block's output `[batch, seq, n_embd]`.
"""


class GradientObserver(Protocol):
    """See every layer that has parameters in a backward pass.

    It must neither change nor keep the arrays.
    """

    def linear(self, layer: "Linear", x: Floating, grad: Floating) -> None:
        """See a linear layer.

        The weight's gradient is the sum over tokens of the products of both arrays, the bias's
        is the sum of `grad`.

        Args:
            layer: the layer.
            x: its input `[tokens, K]`.
            grad: the gradient of its output `[tokens, N]`.
        """

    def layer_norm(
        self,
        layer: "LayerNorm",
        x: Floating,
        statistics: Float64,
        grad: Floating,
        sums: tuple[Floating, Floating],
    ) -> None:
        """See a LayerNorm.

        Args:
            layer: the layer.
            x: its input `[tokens, d]`.
            statistics: the input's means and 1 / sqrt(variance + eps), `[tokens, 2]`.
            grad: the gradient of its output `[tokens, d]`.
            sums: the gradients of gamma and beta, `[d]`.
        """

    def embedding(self, layer: "Embedding", indices: Int64, grad: Floating) -> None:
        """See an embedding.

        Args:
            layer: the layer.
            indices: what was looked up, `[...]`.
            grad: the gradient of what was found, `[..., n_embd]`.
        """
