"""Lists the tensors of a `pytorch_model.bin` without torch and without running its pickle.

The pickled state dict describes each tensor as a strided view into a storage; several tensors
may share one. The names it may ask for are those of `_NAMES`, which stand for the small classes
below; all others are refused.
"""

from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rbe_cli.checkpoint.checkpoint import Float32
from rbe_cli.checkpoint.restricted_pickle import load_pickle
from rbe_cli.checkpoint.stored_tensor import RAW_TYPES, StoredTensor, to_float32
from rbe_cli.checkpoint.torch_archive import TorchArchive, open_torch_archive
from rbe_cli.errors import CheckpointError

_MAX_PICKLE_BYTES = 1 << 22


@dataclass(frozen=True)
class _ItemType:
    """Stand-in for a storage class such as `torch.FloatStorage`."""

    dtype: str
    item_bytes: int


@dataclass(frozen=True)
class _Storage:
    """A storage by its key in the archive; `size` counts items."""

    item_type: _ItemType
    key: str
    size: int


@dataclass(frozen=True)
class _View:
    """A tensor: a view into a storage; `offset` and `stride` count items."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def end(self) -> int:
        """One past the last item of the storage that the view reaches."""
        if prod(self.shape) == 0:
            return self.offset
        steps = ((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        return self.offset + sum(steps) + 1


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *_requires_grad_and_hooks: Any
) -> _View:
    """Stand-in for `torch._utils._rebuild_tensor_v2`; a view that stays inside its storage."""
    if not isinstance(storage, _Storage):
        raise TypeError("not a storage")
    if len(shape) != len(stride):
        raise ValueError("as many sizes as strides")
    for number in (offset, *shape, *stride):
        if not isinstance(number, int) or number < 0:
            raise ValueError("offset, sizes and strides are not negative")
    view = _View(storage, offset, tuple(shape), tuple(stride))
    # No weight repeats items of its storage, so their count bounds that of the tensor.
    if view.end > storage.size or prod(view.shape) > storage.size:
        raise CheckpointError("a tensor does not fit into its storage")
    return view


def _rebuild_parameter(data: Any, *_requires_grad_and_hooks: Any) -> Any:
    """Stand-in for `torch._utils._rebuild_parameter`: a parameter is its tensor."""
    return data


def _empty_dict() -> dict[str, Any]:
    """Stand-in for `collections.OrderedDict`, which pickles fill item by item."""
    return {}


_NAMES: dict[str, Any] = {
    "collections OrderedDict": _empty_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch FloatStorage": _ItemType("float32", 4),
    "torch HalfStorage": _ItemType("float16", 2),
    "torch BFloat16Storage": _ItemType("bfloat16", 2),
    # Types that no weight may have, but the mask buffers of old files do.
    "torch BoolStorage": _ItemType("bool", 1),
    "torch ByteStorage": _ItemType("uint8", 1),
    "torch LongStorage": _ItemType("int64", 8),
}


def list_torch_pickle(path: Path) -> dict[str, StoredTensor]:
    """Name -> tensor of every tensor in the state dict, in its order.

    Raises:
        NotFoundError: the file cannot be opened.
        CheckpointError: `torch.save` did not write it, its pickle asks for a name outside the
            list above, or a tensor does not fit its storage.
    """
    with open_torch_archive(path) as archive:
        if archive.size("data.pkl") > _MAX_PICKLE_BYTES:
            raise CheckpointError(f"{path}: data.pkl has more than {_MAX_PICKLE_BYTES} bytes")
        try:
            state = load_pickle(archive.read("data.pkl"), _NAMES, _storage)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        if not isinstance(state, dict):
            raise CheckpointError(f"{path} does not hold a state dict")
        return {name: _stored_tensor(path, archive, name, view) for name, view in state.items()}


def _storage(persistent_id: Any) -> _Storage:
    """The storage that `("storage", type, key, device, size)` stands for."""
    kind, item_type, key, _device, size = persistent_id
    if not (kind == "storage" and isinstance(item_type, _ItemType)):
        raise TypeError("not a storage")
    if not (isinstance(key, str) and isinstance(size, int)):
        raise TypeError("not a storage")
    return _Storage(item_type, key, size)


def _stored_tensor(path: Path, archive: TorchArchive, name: str, view: object) -> StoredTensor:
    if not isinstance(view, _View):
        raise CheckpointError(f"{path}: {name[:80]!r} is not a tensor")
    storage = view.storage
    if archive.size(f"data/{storage.key}") != storage.size * storage.item_type.item_bytes:
        raise CheckpointError(f"{path}: the storage of {name[:80]!r} has another size than it says")
    return StoredTensor(view.shape, storage.item_type.dtype, partial(_read, path, view))


def _read(path: Path, view: _View) -> Float32:
    """Read a tensor, after checking the CRC-32 of its storage: float32 `[*view.shape]`."""
    dtype = view.storage.item_type.dtype
    with open_torch_archive(path) as archive:
        items = np.frombuffer(archive.read(f"data/{view.storage.key}"), dtype=RAW_TYPES[dtype])
    if items.size != view.storage.size:
        raise CheckpointError(f"{path} has changed since it was opened")
    # `_rebuild_tensor` has checked that the view does not leave the storage.
    strides = [step * items.itemsize for step in view.stride]
    tensor = as_strided(items[view.offset :], view.shape, strides, writeable=False)
    return to_float32(tensor.copy(), dtype)
