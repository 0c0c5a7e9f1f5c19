"""Put the tensors of weight files under GPT-2's canonical names, each exactly once."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np

from rbe_cli.checkpoint.checkpoint import Float32, LazyTensors
from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES, CheckpointTensor
from rbe_cli.checkpoint.stored_names import find_gpt2
from rbe_cli.errors import CheckpointError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding, is_matrix, tensor_shapes
from rbe_cli.quoting import quoted

_INTEGER_TYPES = ("I8", "U8", "int8", "uint8", "qint8", "quint8", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Assembled:
    """Hold a checkpoint's tensors, the config that they show, and notes for the user."""

    tensors: LazyTensors
    config: Gpt2Config
    notes: tuple[str, ...]


def assemble(
    stored: Iterable[tuple[str, CheckpointTensor]],
    config: Gpt2Config,
    *,
    has_bias: bool | None = None,
) -> Assembled:
    """Find exactly the tensors of `tensor_shapes(config)` among those of all weight files.

    Mask buffers and other heads are left out (`find_gpt2`). A head that the config ties to the
    embedding may be stored as well, or instead of it; if both are there and differ, they are not
    tied. Linear layers may all be stored `[out, in]`, as nanoGPT does. Biases are
    zeros if none is stored at all, or those that are not stored if the model has none.

    Args:
        stored: names and tensors as they are in the files.
        config: of the model.
        has_bias: whether the model was trained with biases; None if it is not known.

    Raises:
        CheckpointError: naming a tensor that is missing, extra, stored twice, of another shape
            or type than expected.
    """
    found = find_gpt2(stored)
    tensors, notes = dict(found.tensors), [*found.notes]
    if config.tie_word_embeddings and "lm_head.weight" in tensors and not _drop_tied_head(tensors):
        config = msgspec.structs.replace(config, tie_word_embeddings=False)
        notes.append(
            "lm_head.weight differs from wte.weight, to which the config ties it: both kept"
        )
    shapes = tensor_shapes(config)
    if _is_transposed(tensors, config):
        tensors = {
            name: _transposed(tensor) if is_matrix(name) and not is_embedding(name) else tensor
            for name, tensor in tensors.items()
        }
        notes.append("the linear layers are stored [out, in], and are transposed")
    missing = [name for name in shapes if name not in tensors]
    biases = [name for name in shapes if name.endswith(".bias")]
    if missing and ((missing == biases and has_bias is None) or has_bias is False):
        zeros = [name for name in missing if name in biases]
        tensors |= {name: _zeros(shapes[name]) for name in zeros}
        notes.append(f"{'no' if zeros == biases else 'not all'} biases are stored: zeros are used")
    _refuse("missing", [name for name in shapes if name not in tensors])
    _refuse(
        "not part of a GPT-2 with this config", [name for name in tensors if name not in shapes]
    )
    for name, shape in shapes.items():
        _check(name, tensors[name], shape)
    readers = {name: tensors[name].read for name in shapes}
    return Assembled(LazyTensors(readers), config, tuple(notes))


def _drop_tied_head(tensors: dict[str, CheckpointTensor]) -> bool:
    """Take out a head that is the embedding; return whether it is."""
    head = tensors["lm_head.weight"]
    embedding = tensors.setdefault("wte.weight", head)
    _check("lm_head.weight", head, embedding.shape)
    _check("wte.weight", embedding, head.shape)
    # Compared as bits: a NaN equals itself here, and is reported when the tensor is read.
    is_same = embedding is head or np.array_equal(
        head.read().view(np.uint32), embedding.read().view(np.uint32)
    )
    if is_same:
        del tensors["lm_head.weight"]
    return is_same


def _is_transposed(tensors: dict[str, CheckpointTensor], config: Gpt2Config) -> bool:
    """Return whether linear layers are stored `[out, in]`.

    The layer for queries, keys and values shows it, because its matrix is never square.

    All layers must agree: the shapes of the others are checked later.
    """
    first = tensors.get("h.0.attn.c_attn.weight")
    return first is not None and first.shape == (3 * config.n_embd, config.n_embd)


def _transposed(tensor: CheckpointTensor) -> CheckpointTensor:
    return CheckpointTensor(tensor.shape[::-1], tensor.dtype, partial(_read_transposed, tensor))


def _read_transposed(tensor: CheckpointTensor) -> Float32:
    return tensor.read().T


def _zeros(shape: tuple[int, ...]) -> CheckpointTensor:
    return CheckpointTensor(shape, "float32", lambda: np.zeros(shape, np.float32))


def _refuse(fault: str, names: Collection[str]) -> None:
    if names:
        first = next(iter(names))
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise CheckpointError(f"tensor {quoted(first)}{others} is {fault}")


def _check(name: str, tensor: CheckpointTensor, shape: tuple[int, ...]) -> None:
    if tensor.dtype in _INTEGER_TYPES:
        raise CheckpointError(
            f"tensor {name!r} is {tensor.dtype}: the checkpoint is already quantised, and rbe "
            "needs the original weights"
        )
    if tensor.shape != shape:
        raise CheckpointError(
            f"tensor {name!r} has shape {list(tensor.shape)[:8]} instead of {list(shape)}"
        )
    if tensor.dtype not in RAW_TYPES:
        raise CheckpointError(
            f"tensor {name!r} is {tensor.dtype}, which is none of {', '.join(RAW_TYPES)}"
        )
