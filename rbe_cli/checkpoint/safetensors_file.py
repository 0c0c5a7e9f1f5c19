"""List the tensors of a `.safetensors` file, after validating its header.

Layout (github.com/huggingface/safetensors, README): eight bytes N (unsigned, little-endian),
N bytes of JSON `{name: {dtype, shape, data_offsets: [begin, end]}}`, then the data, which the
tensors cover without overlap or hole.

The package has a reader of its own, and does not need the `safetensors` library:

- A header may come from anybody. This reader checks it before it asks for memory, and says in one
  sentence what is wrong with which tensor of which file, as an error of a damaged file.
- Checkpoints on the hub hold bfloat16 too, which the library reads only with torch.
- It lists a folder from the headers alone, and reads one tensor at a time.

The library could read what is left, but a second way to read the same files would give other
errors. The tests compare the reader and the writer with the library.
"""

import json
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any

import msgspec

from rbe_cli.checkpoint.checked_files import FileState, open_file, read_array
from rbe_cli.checkpoint.checkpoint import Float32
from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES, CheckpointTensor, to_float32
from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import clipped, quoted

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 1 << 24  # the format allows more; a GPT-2 of 4096 layers has 5 MB
_MAX_ENTRIES = 1 << 16
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_ITEM_BYTES = {
    **{"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "BOOL": 1},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8},
    **{"U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8},
}


_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _HeaderEntry(msgspec.Struct, forbid_unknown_fields=True):
    """Hold what the header declares of one tensor."""

    dtype: str
    shape: Annotated[list[_Count], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Count, _Count]


def list_safetensors(path: Path) -> dict[str, CheckpointTensor]:
    """Return name -> tensor of every tensor in the file, in the order of their data.

    Raises:
        NotFoundError: the file cannot be opened.
        CheckpointError: the header breaks the format, does not agree with the file's size, or is
            larger than that of any GPT-2.
    """
    state = FileState.of(path)
    file_bytes = state.size
    with open_file(path) as file:
        header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        data_start = _LENGTH_BYTES + header_bytes
        if data_start > file_bytes:
            raise CheckpointError(
                f"{path} is not a safetensors file, or not a whole one: wrong header length"
            )
        if header_bytes > _MAX_HEADER_BYTES:
            raise CheckpointError(f"{path} has a header of {header_bytes} bytes, which is too long")
        header = file.read(header_bytes)
    entries = sorted(_parse(path, header).items(), key=lambda item: item[1].data_offsets)

    tensors: dict[str, CheckpointTensor] = {}
    position = 0
    for name, entry in entries:
        begin, end = entry.data_offsets
        if begin != position:
            raise CheckpointError(
                f"{path}: tensor {quoted(name)} overlaps another or leaves a hole"
            )
        if end - begin != prod(entry.shape) * _ITEM_BYTES[entry.dtype]:
            raise CheckpointError(f"{path}: shape and bytes of tensor {quoted(name)} disagree")
        dtype = _FLOATS.get(entry.dtype, entry.dtype)
        read = partial(_read, path, state, data_start + begin, tuple(entry.shape), dtype)
        tensors[name] = CheckpointTensor(tuple(entry.shape), dtype, read)
        position = end
    if data_start + position != file_bytes:
        is_short = ": its download is not whole" if data_start + position > file_bytes else ""
        raise CheckpointError(
            f"{path} holds {file_bytes - data_start} bytes of tensors instead of {position}"
            + is_short
        )
    return tensors


def _parse(path: Path, header: bytes) -> dict[str, _HeaderEntry]:
    """Return the header's entries, each of a known type; their numbers are not yet compared."""
    # Each entry is an object; to count them before they are parsed bounds the time.
    if header.count(b"{") > _MAX_ENTRIES:
        raise CheckpointError(f"{path} declares more than {_MAX_ENTRIES} tensors")

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name is there twice")
        return dict(pairs)

    try:
        fields = json.loads(header, object_pairs_hook=without_duplicates)
        if isinstance(fields, dict):
            fields.pop("__metadata__", None)
        entries = msgspec.convert(fields, dict[str, _HeaderEntry])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: malformed safetensors header: {clipped(str(error), 200)}"
        ) from error
    for name, entry in entries.items():
        if entry.dtype not in _ITEM_BYTES:
            raise CheckpointError(f"{path}: tensor {quoted(name)} has an unknown type")
    return entries


def _read(path: Path, state: FileState, offset: int, shape: tuple[int, ...], dtype: str) -> Float32:
    """Read the tensor at byte `offset`: float32 `[*shape]`."""
    raw = read_array(path, state, RAW_TYPES[dtype], prod(shape), offset)
    return to_float32(raw, dtype).reshape(shape)
