"""Puts the tensors of weight files under GPT-2's canonical names, each exactly once."""

from collections.abc import Collection, Iterable

import numpy as np

from rbe_cli.checkpoint.checkpoint import LazyTensors
from rbe_cli.checkpoint.config import Gpt2Config
from rbe_cli.checkpoint.names import canonical_name, is_mask_buffer, tensor_shapes
from rbe_cli.checkpoint.stored_tensor import RAW_TYPES, StoredTensor
from rbe_cli.errors import CheckpointError


def assemble(stored: Iterable[tuple[str, StoredTensor]], config: Gpt2Config) -> LazyTensors:
    """Exactly the tensors of `tensor_shapes(config)`, from those of all weight files.

    Causal-mask buffers are dropped. A head that the config ties to the embedding may be stored
    as well (or instead of it), and then must equal it.

    Raises:
        CheckpointError: naming a tensor that is missing, extra, stored twice, of another shape
            or type than expected, or a tied head that differs from the embedding.
    """
    tensors = _under_canonical_names(stored)
    if config.tie_word_embeddings and "lm_head.weight" in tensors:
        _drop_tied_head(tensors)
    shapes = tensor_shapes(config)
    _refuse("missing", [name for name in shapes if name not in tensors])
    _refuse(
        "not part of a GPT-2 with this config", [name for name in tensors if name not in shapes]
    )
    for name, shape in shapes.items():
        _check(name, tensors[name], shape)
    return LazyTensors({name: tensors[name].read for name in shapes})


def _under_canonical_names(
    stored: Iterable[tuple[str, StoredTensor]],
) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for stored_name, tensor in stored:
        name = canonical_name(stored_name)
        if is_mask_buffer(name):
            continue
        if name in tensors:
            raise CheckpointError(f"tensor {name[:80]!r} is stored twice")
        tensors[name] = tensor
    return tensors


def _drop_tied_head(tensors: dict[str, StoredTensor]) -> None:
    head = tensors.pop("lm_head.weight")
    embedding = tensors.setdefault("wte.weight", head)
    if embedding is head:
        return
    _check("lm_head.weight", head, embedding.shape)
    _check("wte.weight", embedding, head.shape)
    # Compared as bits: a NaN equals itself here, and is reported when the tensor is read.
    if not np.array_equal(head.read().view(np.uint32), embedding.read().view(np.uint32)):
        raise CheckpointError(
            "tensor 'lm_head.weight' differs from 'wte.weight', but the config ties them"
        )


def _refuse(fault: str, names: Collection[str]) -> None:
    if names:
        first = next(iter(names))
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise CheckpointError(f"tensor {first[:80]!r}{others} is {fault}")


def _check(name: str, tensor: StoredTensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise CheckpointError(
            f"tensor {name!r} has shape {list(tensor.shape)[:8]} instead of {list(shape)}"
        )
    if tensor.dtype not in RAW_TYPES:
        raise CheckpointError(
            f"tensor {name!r} is {tensor.dtype}, which is none of {', '.join(RAW_TYPES)}"
        )
