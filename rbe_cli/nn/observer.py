"""A look at activations and gradients while a model computes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from rbe_cli.runtime.arrays import Float64, Floating, Int64

if TYPE_CHECKING:
    from rbe_cli.nn.embedding import Embedding
    from rbe_cli.nn.layer_norm_layer import LayerNorm
    from rbe_cli.nn.linear_layer import Linear

Observer = Callable[[str, Floating], None]
"""Called with a name and an array, which must not be changed and may be reused afterwards:

- each linear layer's weight (`h.0.attn.c_attn.weight`, ...; the head's is `wte.weight` if
  tied, else `lm_head.weight`) with the layer's input `[tokens, K]`;
- `h.0`, `h.1`, ... with the block's output `[batch, seq, n_embd]`.
"""


class GradientObserver(Protocol):
    """Is told of every layer that has parameters in a backward pass.

    The arrays must be neither changed nor kept.
    """

    def linear(self, layer: "Linear", x: Floating, grad: Floating) -> None:
        """The layer's input `[tokens, K]`, and the gradient of its output `[tokens, N]`.

        The weight's gradient is the sum over tokens of their products, the bias's that of `grad`.
        """

    def layer_norm(
        self,
        layer: "LayerNorm",
        x: Floating,
        statistics: Float64,
        grad: Floating,
        sums: tuple[Floating, Floating],
    ) -> None:
        """The layer's input `[tokens, d]`, its means and 1 / sqrt(variance + eps) `[tokens, 2]`,
        the gradient of its output `[tokens, d]`, and those of gamma and beta `[d]`.
        """

    def embedding(self, layer: "Embedding", indices: Int64, grad: Floating) -> None:
        """What was looked up `[...]`, and the gradient of what was found `[..., n_embd]`."""
