"""List the tensors of a file of `torch.save`, without torch and without running its pickle.

The file holds a state dict, or a training checkpoint with a state dict in it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from rbe_cli.checkpoint.checked_files import FileState, errors_name, open_file
from rbe_cli.checkpoint.checkpoint import Float32
from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES, CheckpointTensor, to_float32
from rbe_cli.checkpoint.file_kind import FileKind, file_kind
from rbe_cli.checkpoint.stored_weights import StoredWeights
from rbe_cli.checkpoint.torch_files.restricted_pickle import Inert
from rbe_cli.checkpoint.torch_files.torch_archive import TorchArchive, open_torch_archive
from rbe_cli.checkpoint.torch_files.torch_legacy import read_legacy
from rbe_cli.checkpoint.torch_files.torch_pickle import Storage, View, load_object
from rbe_cli.checkpoint.torch_files.training_checkpoint import find_state_dict
from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import quoted

_MAX_PICKLE_BYTES = 1 << 23
# A storage is read once for each of its tensors, and all of GPT-2 XL's 580 may share one.
_MAX_READS = 1000  # times the bytes of the file


def read_torch_file(path: Path) -> StoredWeights:
    """List the tensors of the state dict in a file, in its order.

    Raises:
        NotFoundError: the file cannot be opened.
        CheckpointError: `torch.save` did not write it, it holds no state dict, a weight is
            something else than a tensor, or a tensor does not fit its storage.
    """
    state = FileState.of(path)
    if file_kind(path) is FileKind.torch_legacy:
        with errors_name(path):
            saved = read_legacy(path, _MAX_PICKLE_BYTES)
            return _weights(path, saved.value, partial(_legacy_tensor, path, state, saved.offsets))
    with open_torch_archive(path) as archive:
        if archive.size("data.pkl") > _MAX_PICKLE_BYTES:
            raise CheckpointError(f"data.pkl has more than {_MAX_PICKLE_BYTES} bytes")
        value, _ = load_object(archive.read("data.pkl"))
        return _weights(path, value, partial(_zip_tensor, path, state, archive))


def _weights(path: Path, value: Any, tensor: Callable[[View], CheckpointTensor]) -> StoredWeights:
    """List the tensors of a saved object's state dict; what is no tensor there is no weight."""
    found = find_state_dict(value)
    tensors = []
    for name, item in found.state.items():
        if isinstance(item, View) and isinstance(name, str):
            item.check()
            tensors.append((name, tensor(item)))
        elif isinstance(item, Inert) and str(name).endswith((".weight", ".bias")):
            raise CheckpointError(f"the pickle asks for {quoted(item.name)}: refused")
    if not tensors:
        raise CheckpointError("its state dict holds no tensors")
    nbytes = path.stat().st_size
    views = [item for item in found.state.values() if isinstance(item, View)]
    if sum(view.storage.nbytes for view in views) > _MAX_READS * nbytes:
        raise CheckpointError("far too many of its tensors share storages")
    if found.state is not value:
        nbytes = sum({view.storage.key: view.storage.nbytes for view in views}.values())
    return StoredWeights(tensors, nbytes, found.own_config, found.notes)


def _zip_tensor(
    path: Path, state: FileState, archive: TorchArchive, view: View
) -> CheckpointTensor:
    if archive.size(f"data/{view.storage.key}") != view.storage.nbytes:
        raise CheckpointError("a storage has another size than its tensors say")
    return _stored_tensor(path, state, view, partial(_read_zip_storage, path, view.storage))


def _read_zip_storage(path: Path, storage: Storage) -> bytes:
    """Read a storage, after checking its CRC-32."""
    with open_torch_archive(path) as archive:
        return archive.read(f"data/{storage.key}")


def _legacy_tensor(
    path: Path, state: FileState, offsets: dict[str, int], view: View
) -> CheckpointTensor:
    if view.storage.key not in offsets:
        raise CheckpointError("a storage is missing")
    offset = offsets[view.storage.key]
    return _stored_tensor(
        path, state, view, partial(_read_legacy_storage, path, view.storage, offset)
    )


def _read_legacy_storage(path: Path, storage: Storage, offset: int) -> bytes:
    with open_file(path) as file:
        file.seek(offset)
        return file.read(storage.nbytes)


def _stored_tensor(
    path: Path, state: FileState, view: View, read_storage: Callable[[], bytes]
) -> CheckpointTensor:
    dtype = view.storage.item_type.dtype
    return CheckpointTensor(view.shape, dtype, partial(_read, path, state, view, read_storage))


def _read(path: Path, state: FileState, view: View, read_storage: Callable[[], bytes]) -> Float32:
    """Read a tensor whose view has been checked: float32 `[*view.shape]`."""
    dtype, content = view.storage.item_type.dtype, read_storage()
    if len(content) != view.storage.nbytes:
        raise CheckpointError(f"{path} has changed since it was opened")
    state.check(path)
    items = np.frombuffer(content, dtype=RAW_TYPES[dtype])
    tensor = as_strided(items[view.offset :], view.shape, view.byte_strides(), writeable=False)
    return to_float32(tensor.copy(), dtype)
