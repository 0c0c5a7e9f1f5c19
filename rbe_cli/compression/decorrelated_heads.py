"""Change the bases of attention heads: the model stays the same and takes fewer bits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.ectcq.head_bases import decorrelate
from rbe_cli.compression.tensor_plan import TensorPlan

_PARTS = ("c_attn.weight", "c_attn.bias", "c_proj.weight")


def with_decorrelated_heads(
    checkpoint: Checkpoint, plans: Sequence[TensorPlan]
) -> dict[str, NDArray[np.float32]]:
    """Return all tensors, with the attention of each layer in other bases (ectcq/head_bases.py).

    A layer is changed only if the codecs of both its matrices gain from it, and if no rule keeps
    its bias exactly. With a fixed number of bits, and in a basis of smooth functions, other
    bases do not lower the error.
    """
    tensors = dict(checkpoint.tensors)
    by_name = {plan.name: plan for plan in plans}
    for layer in range(checkpoint.config.n_layer):
        names = [f"h.{layer}.attn.{part}" for part in _PARTS]
        c_attn, bias, c_proj = (by_name[name] for name in names)
        gains = all(plan.codec.gains_from_head_bases for plan in (c_attn, c_proj))
        if gains and not bias.options.is_asked:
            weight, vector, projection = (tensors[name] for name in names)
            changed = decorrelate(weight, vector, projection, checkpoint.config.n_head)
            tensors |= zip(names, changed, strict=True)
    return tensors
