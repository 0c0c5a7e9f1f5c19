"""Change the bases of attention heads: the model stays the same and takes fewer bits."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.ectcq.head_bases import decorrelate
from rbe_cli.compression.tensor_plan import TensorPlan
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.model.config import Gpt2Config
from rbe_cli.weights.on_demand import OnDemand

Float32 = NDArray[np.float32]
_PARTS = ("c_attn.weight", "c_attn.bias", "c_proj.weight")


def with_decorrelated_heads(
    config: Gpt2Config,
    tensors: Mapping[str, Float32],
    plans: Sequence[TensorPlan],
    folder: WorkFolder,
) -> Mapping[str, Float32]:
    """Return all tensors, with the attention of each layer in other bases (ectcq/head_bases.py).

    A layer is changed only if the codecs of both its matrices gain from it, and if no rule keeps
    its bias exactly. With a fixed number of bits, and in a basis of smooth functions, other
    bases do not lower the error.

    Args:
        config: of the model.
        tensors: of the model by name, float32.
        plans: the plans of all tensors.
        folder: keeps what was changed.

    Returns:
        The tensors by name, float32. Each access reads one anew.
    """
    by_name = {plan.name: plan for plan in plans}
    changed: dict[str, int] = {}  # name of a tensor that changes -> its layer
    for layer in range(config.n_layer):
        names = _names(layer)
        c_attn, bias, c_proj = (by_name[name] for name in names)
        gains = all(plan.codec.gains_from_bases for plan in (c_attn, c_proj))
        if gains and not bias.options.is_asked:
            changed |= dict.fromkeys(names, layer)

    def read(name: str) -> Float32:
        """Return a tensor; the first that is read of a layer changes all of them."""
        if name not in changed:
            return tensors[name]
        kept = folder.load(f"heads-{name}")
        if kept is None:
            return _changed(config.n_head, tensors, changed[name], folder)[name]
        return kept["values"]

    return OnDemand(tensors, read)


def _names(layer: int) -> list[str]:
    return [f"h.{layer}.attn.{part}" for part in _PARTS]


def _changed(
    heads: int, tensors: Mapping[str, Float32], layer: int, folder: WorkFolder
) -> dict[str, Float32]:
    """Change the bases of a layer's heads, and keep and return the changed tensors by name."""
    names = _names(layer)
    weight, bias, projection = (tensors[name] for name in names)
    values = decorrelate(weight, bias, projection, heads)
    for name, own in zip(names, values, strict=True):
        folder.save(f"heads-{name}", {"values": own})
    return dict(zip(names, values, strict=True))
