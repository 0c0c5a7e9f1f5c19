"""Stand in for what the pickles of `torch.save` ask for: storages, views of them, dicts.

A pickled tensor is a strided view into a storage; several tensors may share one. `load_object`
gives a pickle the names of `_NAMES` and no others (restricted_pickle.py).
"""

from dataclasses import dataclass
from io import BytesIO
from math import prod
from typing import Any

from rbe_cli.checkpoint.torch_files.restricted_pickle import MAX_STEPS, Inert, load_pickle
from rbe_cli.errors import CheckpointError

_MAX_DIMENSIONS = 8
_MAX_ID_PARTS = 8  # of a persistent id, which has six or fewer
_LONGEST_KEY = 100  # characters of a storage's key
_MAX_NUMBER = (1 << 63) - 1  # of an offset, size or stride, in items


@dataclass(frozen=True)
class ItemType:
    """Stand in for a storage class such as `torch.FloatStorage`."""

    dtype: str
    item_bytes: int


@dataclass(frozen=True)
class Storage:
    """Name a storage by its key in the file; `size` counts items."""

    item_type: ItemType
    key: str
    size: int

    @property
    def nbytes(self) -> int:
        """Return how many bytes the file must hold for it."""
        return self.size * self.item_type.item_bytes


@dataclass(frozen=True)
class View:
    """Describe a tensor as a view into a storage; `offset` and `stride` count items."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def check(self) -> None:
        """Refuse a view that leaves its storage.

        Raises:
            CheckpointError: it does, or repeats items, so that their count would not bound it.
        """
        size = prod(self.shape)
        steps = ((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        end = self.offset + sum(steps) + 1 if size else self.offset
        if end > self.storage.size or size > self.storage.size:
            raise CheckpointError("a tensor does not fit into its storage")

    def byte_strides(self) -> list[int]:
        """Return the distance of items in bytes by dimension; 0 where there is no second item."""
        step = 0 if 0 in self.shape else self.storage.item_type.item_bytes
        return [
            step * own if size > 1 else 0 for size, own in zip(self.shape, self.stride, strict=True)
        ]


def load_object(
    data: bytes | BytesIO, max_steps: int = MAX_STEPS
) -> tuple[Any, dict[str, Storage]]:
    """Evaluate a pickle of `torch.save`.

    Args:
        data: the pickle; of a stream, it is read up to the pickle's end.
        max_steps: of it, as of `load_pickle`.

    Returns:
        The object, and the storages it refers to, by their keys.

    Raises:
        CheckpointError: it is malformed.
    """
    storages: dict[str, Storage] = {}

    def storage(persistent_id: Any) -> Storage | Inert:
        found = _storage(persistent_id)
        # One storage may be seen as items of several types, but of one number of bytes.
        if isinstance(found, Storage) and (
            storages.setdefault(found.key, found).nbytes != found.nbytes
        ):
            raise ValueError("a storage of two sizes")
        return found

    return load_pickle(data, _NAMES, storage, max_steps), storages


def _storage(persistent_id: Any) -> Storage | Inert:
    """Return what `("storage", type, key, device, size[, view])` stands for."""
    if not isinstance(persistent_id, tuple) or len(persistent_id) > _MAX_ID_PARTS:
        raise TypeError("not a storage")
    if persistent_id[:1] == ("module",):
        return Inert("torch.nn Module")  # with its source code, which is not run
    kind, item_type, key, _device, size, *view = persistent_id
    if kind == "storage" and isinstance(item_type, Inert):
        return item_type  # of a type that no weight has
    if not (kind == "storage" and isinstance(item_type, ItemType)):
        raise TypeError("not a storage")
    if not (isinstance(key, str) and len(key) <= _LONGEST_KEY and _is_count(size)):
        raise TypeError("not a storage")
    if any(part is not None for part in view):
        raise CheckpointError("the pickle has views of storages, as PyTorch before 0.4: refused")
    return Storage(item_type, key, size)


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *_requires_grad_and_hooks: Any
) -> View | Inert:
    """Stand in for `torch._utils._rebuild_tensor_v2`."""
    if isinstance(storage, Inert):
        return storage
    if not isinstance(storage, Storage):
        raise TypeError("not a storage")
    if len(shape) != len(stride):
        raise ValueError("as many sizes as strides")
    if len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(f"a tensor has {len(shape)} dimensions")
    if not all(map(_is_count, (offset, *shape, *stride))):
        raise ValueError("offset, sizes and strides are numbers, and not negative")
    return View(storage, offset, tuple(shape), tuple(stride))


def _is_count(number: Any) -> bool:
    """Whether a number can count items; True and False are no numbers here."""
    return type(number) is int and 0 <= number <= _MAX_NUMBER


def _rebuild_parameter(data: Any, *_requires_grad_and_hooks: Any) -> Any:
    """Stand in for `torch._utils._rebuild_parameter`: return the parameter's tensor."""
    return data


def _rebuild_from_type(function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
    """Stand in for `torch._tensor._rebuild_from_type_v2`: a tensor with attributes."""
    if function is _rebuild_tensor or function is _rebuild_parameter:
        return function(*arguments)
    return Inert("torch._tensor _rebuild_from_type_v2")


def _ordered_dict(items: Any = ()) -> dict[str, Any]:
    """Stand in for `collections.OrderedDict`: Python 3 fills it later, Python 2 gives pairs."""
    pairs = [(key, value) for key, value in items]
    if not all(isinstance(key, str) for key, _ in pairs):
        raise TypeError("names are text")
    return dict(pairs)


_NAMES: dict[str, Any] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch._utils _rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor _rebuild_from_type_v2": _rebuild_from_type,
    "torch FloatStorage": ItemType("float32", 4),
    "torch HalfStorage": ItemType("float16", 2),
    "torch BFloat16Storage": ItemType("bfloat16", 2),
    "torch DoubleStorage": ItemType("float64", 8),
    # Types that no weight may have, but other tensors of a file do.
    "torch BoolStorage": ItemType("bool", 1),
    "torch ByteStorage": ItemType("uint8", 1),
    "torch CharStorage": ItemType("int8", 1),
    "torch ShortStorage": ItemType("int16", 2),
    "torch IntStorage": ItemType("int32", 4),
    "torch LongStorage": ItemType("int64", 8),
    "torch ComplexFloatStorage": ItemType("complex64", 8),
    "torch ComplexDoubleStorage": ItemType("complex128", 16),
    "torch QInt8Storage": ItemType("qint8", 1),
    "torch QUInt8Storage": ItemType("quint8", 1),
    "torch QInt32Storage": ItemType("qint32", 4),
}
