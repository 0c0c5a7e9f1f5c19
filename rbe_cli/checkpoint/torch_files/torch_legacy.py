"""Read what `torch.save` wrote before PyTorch 1.6 (`_use_new_zipfile_serialization=False`).

Five pickles stand one after the other: a magic number, the protocol 1001, facts about the
machine, the saved object, and the keys of its storages. The storages follow in the order of
the keys, each as its number of items (8 bytes, little-endian) and then its items.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from rbe_cli.checkpoint.checked_files import open_file
from rbe_cli.checkpoint.torch_files.torch_pickle import Storage, load_object
from rbe_cli.errors import CheckpointError

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_COUNT_BYTES = 8
_HEADER_STEPS = 1000  # of each pickle before the saved object
_KEY_STEPS = 1 << 16  # of the list of keys


@dataclass(frozen=True)
class LegacyFile:
    """Hold the saved object, and where the items of each storage begin, in bytes, by its key."""

    value: Any
    offsets: dict[str, int]


def read_legacy(path: Path, max_pickle_bytes: int) -> LegacyFile:
    """Read the pickles of a file, and find its storages.

    Args:
        path: the file to read.
        max_pickle_bytes: all pickles must end within so many bytes.

    Raises:
        NotFoundError: the file cannot be opened.
        CheckpointError: it is malformed or truncated.
    """
    with open_file(path) as file:
        pickles = BytesIO(file.read(max_pickle_bytes))
    magic, protocol, machine = (load_object(pickles, _HEADER_STEPS)[0] for _ in range(3))
    if magic != _MAGIC_NUMBER or protocol != _PROTOCOL or not isinstance(machine, dict):
        raise CheckpointError("it has no header of torch.save")
    if machine.get("little_endian") is not True:
        raise CheckpointError("it was saved on a machine that is not little-endian")
    value, storages = load_object(pickles)
    keys, _ = load_object(pickles, _KEY_STEPS)
    if not isinstance(keys, list):
        raise CheckpointError("its list of storages is malformed")
    return LegacyFile(value, _offsets(path, pickles.tell(), keys, storages))


def _offsets(
    path: Path, position: int, keys: list[Any], storages: dict[str, Storage]
) -> dict[str, int]:
    """Return where each storage's items begin, after checking its declared size."""
    offsets: dict[str, int] = {}
    file_bytes = path.stat().st_size
    with open_file(path) as file:
        for key in keys:
            storage = storages.get(key) if isinstance(key, str) else None
            if storage is None or key in offsets:
                raise CheckpointError("it holds a storage of an unknown type, or one twice")
            file.seek(position)
            if int.from_bytes(file.read(_COUNT_BYTES), "little") != storage.size:
                raise CheckpointError("a storage has another size than its tensors say")
            offsets[storage.key] = position + _COUNT_BYTES
            position += _COUNT_BYTES + storage.nbytes
            if position > file_bytes:
                raise CheckpointError("it ends before its last storage: its download is not whole")
    return offsets
