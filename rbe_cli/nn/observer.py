"""A look at activations while a model computes."""

from collections.abc import Callable

from rbe_cli.kernels.arrays import Float32

Observer = Callable[[str, Float32], None]
"""Called with a name and an array, which must not be changed and may be reused afterwards:

- each linear layer's weight (`h.0.attn.c_attn.weight`, ...; the head's is `wte.weight` if
  tied, else `lm_head.weight`) with the layer's input `[tokens, K]`;
- `h.0`, `h.1`, ... with the block's output `[batch, seq, n_embd]`.
"""

GradientObserver = Callable[[str, Float32, Float32], None]
"""Called in a backward pass with a weight's name and two arrays, neither to be changed or kept:

- a linear layer's, with the layer's input `[tokens, K]` and the gradient with respect to its
  output `[tokens, N]`;
- a LayerNorm's gamma, with the normalised input `[tokens, d]` and the gradient with respect to
  the output `[tokens, d]`.

The weight's gradient is the sum over tokens of their products, the bias's that of the second.
"""
