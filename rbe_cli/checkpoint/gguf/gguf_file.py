"""List the metadata and the tensors of a GGUF file, after validating its header.

Layout (github.com/ggml-org/ggml, docs/gguf.md): `GGUF`, version, number of tensors, number of
keys; each key with its type and value; each tensor's name, sizes, type and offset; the tensors'
data. This reader exists because that of the `gguf` library does not end on a file that declares
more values than it holds. The library decodes quantised tensors (the extra `gguf`).
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rbe_cli.checkpoint.checked_files import FileState, open_file, read_array
from rbe_cli.checkpoint.checkpoint import Float32
from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES, CheckpointTensor, to_float32
from rbe_cli.errors import CheckpointError, UsageError
from rbe_cli.quoting import clipped, quoted

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_ENTRIES = 1 << 16  # keys, or tensors
_MAX_TEXT_BYTES = 1 << 20
_MAX_TEXTS = 1 << 20  # in all arrays of texts; the largest vocabularies have 700,000
_MAX_NUMBERS = 1 << 22  # in all arrays of numbers
_MAX_SIZE = 1 << 31  # of a dimension
_ALIGNMENT = 32  # bytes, unless `general.alignment` says otherwise
# GGUF's numbers for types of values, and for those of tensors that need no decoding.
_SCALARS = {
    kind: struct.Struct("<" + letter)
    for kind, letter in (
        *((0, "B"), (1, "b"), (2, "H"), (3, "h"), (4, "I"), (5, "i"), (6, "f"), (7, "?")),
        *((10, "Q"), (11, "q"), (12, "d")),
    )
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]
_STRING, _ARRAY = 8, 9
_FLOATS = {0: "float32", 1: "float16", 28: "float64", 30: "bfloat16"}


@dataclass(frozen=True)
class GgufFile:
    """Hold what a GGUF file declares.

    Attributes:
        metadata: values by key: numbers, texts, and lists of texts or of numbers.
        tensors: by name; shapes are numpy's, the last size being that of a row.
        quantised: names of the quantised types among the tensors, sorted.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, CheckpointTensor]
    quantised: tuple[str, ...]


def read_gguf(path: Path) -> GgufFile:
    """Read a file's metadata, and list its tensors.

    Quantised tensors are listed as the float32 that they stand for.

    Raises:
        NotFoundError: the file cannot be opened.
        CheckpointError: it breaks the format, or does not hold what it declares.
        UsageError: its tensors are quantised, and the `gguf` library is not installed.
    """
    state = FileState.of(path)  # before it is opened: a file that takes its place is noticed
    with open_file(path) as file, _errors_name(path):
        if state.size == 0:
            raise CheckpointError("the file is empty")
        return _read(path, state, _Cursor(file, state.size))


def _read(path: Path, state: FileState, cursor: "_Cursor") -> GgufFile:
    if cursor.take(4) != _MAGIC:
        raise CheckpointError("this is not a GGUF file")
    version = cursor.number(_U32)
    if version not in _VERSIONS:
        raise CheckpointError(f"GGUF version {version} is none of {_VERSIONS}")
    tensor_count, key_count = cursor.number(_U64), cursor.number(_U64)
    if max(tensor_count, key_count) > _MAX_ENTRIES:
        raise CheckpointError(f"it declares {tensor_count} tensors and {key_count} keys")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text()
        if key in metadata:
            raise CheckpointError(f"its key {quoted(key)} is there twice")
        metadata[key] = cursor.value(cursor.number(_U32))
    entries = [cursor.entry() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or alignment not in (1 << n for n in range(3, 17)):
        raise CheckpointError(f"general.alignment = {quoted(alignment)} is not supported")
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, CheckpointTensor] = {}
    quantised, tensor_bytes = set(), 0
    for entry in entries:
        if entry.name in tensors:
            raise CheckpointError(f"tensor {quoted(entry.name)} is stored twice")
        form = _form(entry)
        if start + entry.offset + form.bytes > cursor.size:
            raise CheckpointError(f"the file ends inside tensor {quoted(entry.name)}")
        tensor_bytes += form.bytes
        if tensor_bytes > cursor.size:  # which would be read many times
            raise CheckpointError("its tensors lie over one another")
        if form.dtype is None:
            quantised.add(form.name)
        read = partial(_read_tensor, path, state, start + entry.offset, entry, form)
        tensors[entry.name] = CheckpointTensor(entry.shape, form.dtype or "float32", read)
    return GgufFile(metadata, tensors, tuple(sorted(quantised)))


@dataclass(frozen=True)
class _TensorInfo:
    """Hold a tensor's declaration in the header; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True)
class _Form:
    """Say how a tensor is stored; `dtype` is None for what the `gguf` library decodes."""

    name: str
    dtype: str | None
    bytes: int


class _Cursor:
    """Take one value after the other from a file, and none from beyond its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.position = 0
        self._texts_left, self._numbers_left = _MAX_TEXTS, _MAX_NUMBERS

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        found = self._file.read(count) if count <= self.size - self.position else b""
        if len(found) < count:
            raise CheckpointError("the file ends inside its header")
        self.position += count
        return found

    def number(self, form: struct.Struct) -> Any:
        """Return a number of this form."""
        return form.unpack(self.take(form.size))[0]

    def text(self) -> str:
        """Return a text: eight bytes of its length, then UTF-8."""
        length = self.number(_U64)
        if length > _MAX_TEXT_BYTES:
            raise CheckpointError(f"it holds a text of {length} bytes")
        return self.take(length).decode()

    def value(self, kind: int) -> Any:
        """Return a value of this type of GGUF."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self._array(self.number(_U32), self.number(_U64))
        return self.number(_scalar(kind))

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind == _STRING:
            self._texts_left -= count
            if self._texts_left < 0:
                raise CheckpointError(f"it declares more than {_MAX_TEXTS} texts")
            return [self.text() for _ in range(count)]
        form = _scalar(kind)
        self._numbers_left -= count
        if self._numbers_left < 0:
            raise CheckpointError(f"it declares more than {_MAX_NUMBERS} numbers in arrays")
        return [number for (number,) in form.iter_unpack(self.take(count * form.size))]

    def entry(self) -> _TensorInfo:
        """Return the next tensor's declaration; GGUF puts the size of a row first."""
        name, dimensions = self.text(), self.number(_U32)
        if not 1 <= dimensions <= 4:
            raise CheckpointError(f"tensor {quoted(name)} has {dimensions} dimensions")
        sizes = [self.number(_U64) for _ in range(dimensions)]
        if not all(1 <= size <= _MAX_SIZE for size in sizes):
            raise CheckpointError(f"tensor {quoted(name)} has the sizes {sizes}")
        kind, offset = self.number(_U32), self.number(_U64)
        return _TensorInfo(name, tuple(reversed(sizes)), kind, offset)


def _scalar(kind: int) -> struct.Struct:
    if kind not in _SCALARS:
        raise CheckpointError(f"it holds a value of type {kind}, which is not supported")
    return _SCALARS[kind]


def _form(entry: _TensorInfo) -> _Form:
    """Return how a tensor is stored, its bytes computed from its sizes."""
    count = prod(entry.shape)
    if entry.type in _FLOATS:
        dtype = _FLOATS[entry.type]
        return _Form(dtype, dtype, count * RAW_TYPES[dtype].itemsize)
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise UsageError(
            "the file is quantised, which needs the gguf library: pip install 'rbe-cli[gguf]'"
        ) from error
    if entry.type not in set(GGMLQuantizationType):
        raise CheckpointError(f"tensor {quoted(entry.name)} has an unknown type, {entry.type}")
    kind = GGMLQuantizationType(entry.type)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if entry.shape[-1] % block:
        raise CheckpointError(f"the rows of tensor {quoted(entry.name)} are not blocks of {block}")
    return _Form(kind.name, None, count // block * block_bytes)


def _read_tensor(
    path: Path, state: FileState, offset: int, entry: _TensorInfo, form: _Form
) -> Float32:
    """Read the tensor at byte `offset`: float32 `[*shape]`."""
    raw = read_array(path, state, np.uint8, form.bytes, offset)
    if form.dtype is not None:
        return to_float32(raw.view(RAW_TYPES[form.dtype]), form.dtype).reshape(entry.shape)
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    rows = raw.reshape(prod(entry.shape[:-1]), -1)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale, found later
            tensor: Float32 = dequantize(rows, GGMLQuantizationType(entry.type))
    except Exception as error:  # what the library raises has no common base
        raise CheckpointError(
            f"{path}: the gguf library cannot decode tensor {quoted(entry.name)} ({form.name}): "
            f"{clipped(str(error), 200)}"
        ) from error
    return tensor.reshape(entry.shape)


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, UsageError) as error:
        raise type(error)(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: a text in its header is not UTF-8") from error
    except (OSError, struct.error, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
