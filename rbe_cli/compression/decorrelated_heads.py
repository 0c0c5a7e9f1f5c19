"""The checkpoint as another, of the same function, whose attention takes fewer bits."""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.ectcq.head_bases import decorrelate
from rbe_cli.compression.settings import Settings


def with_decorrelated_heads(
    checkpoint: Checkpoint, settings: Settings
) -> dict[str, NDArray[np.float32]]:
    """All tensors, the attention's of each layer in other bases (codec/ectcq/head_bases.py).

    A layer stays as it is if any of them is not entropy-coded: at a fixed rate, and where the
    basis is smooth functions, it does not pay, and what is to be kept is kept.
    """
    tensors = dict(checkpoint.tensors)
    for layer in range(checkpoint.config.n_layer):
        parts = ("c_attn.weight", "c_attn.bias", "c_proj.weight")
        names = [f"h.{layer}.attn.{part}" for part in parts]
        if all(settings.codec(name) == "ectcq" for name in names):
            c_attn, bias, c_proj = (tensors[name] for name in names)
            changed = decorrelate(c_attn, bias, c_proj, checkpoint.config.n_head)
            tensors |= zip(names, changed, strict=True)
    return tensors
