"""A look at activations while a model computes."""

from collections.abc import Callable

from rbe_cli.kernels.arrays import Float32

Observer = Callable[[str, Float32], None]
"""Called with a name and an array, which must not be changed and may be reused afterwards:

- each linear layer's weight (`h.0.attn.c_attn.weight`, ...; the head's is `wte.weight` if
  tied, else `lm_head.weight`) with the layer's input `[tokens, K]`;
- `h.0`, `h.1`, ... with the block's output `[batch, seq, n_embd]`.
"""
