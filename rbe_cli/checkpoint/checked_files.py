"""Open and read files, and raise the errors that a user should see."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from rbe_cli.errors import BadFileError, CheckpointError, NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK_BYTES = 1 << 22
MAX_CONFIG_BYTES = 1 << 24  # of a configuration or an index of shards


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading bytes.

    Raises:
        NotFoundError: it does not exist or cannot be opened.
        BadFileError: an `OSError` was raised inside: the file cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}") from error
    try:
        with file:
            yield file
    except OSError as error:
        raise BadFileError(f"{path} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class FileState:
    """Say which file a path named at a time, and what state it was in.

    Attributes:
        file: numbers of its device and of the file there.
        size: bytes.
        modified: when it was last written to, in nanoseconds.
    """

    file: tuple[int, int]
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Return the state of a file now.

        Raises:
            NotFoundError: there is no file.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise NotFoundError(f"{path} cannot be read: {error.strerror}") from error
        return cls((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)

    def check(self, path: Path) -> None:
        """Refuse what was read of a file if it is not in this state any more.

        Raises:
            CheckpointError: another file has its name now, or it was written to.
            NotFoundError: there is no file any more.
        """
        if FileState.of(path) != self:
            raise CheckpointError(f"{path} has changed since it was opened")


def read_array(path: Path, state: FileState, dtype: Any, count: int, offset: int) -> "NDArray[Any]":
    """Read `count` numbers `[count]` of a type, from byte `offset` of a file.

    Args:
        path: the file.
        state: of the file when its header was checked.
        dtype, count, offset: the numbers lie within `state.size` bytes.

    Raises:
        NotFoundError, BadFileError: the file cannot be read.
        CheckpointError: it has changed since.
    """
    import numpy as np  # which listing tensors does not need

    found = np.empty(count, dtype)
    with open_file(path) as file:
        file.seek(offset)
        size = file.readinto(found.view(np.uint8).data)
    if size != found.nbytes:
        raise CheckpointError(f"{path} has become shorter since it was opened")
    state.check(path)
    return found


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Put the file's path before the message of a `CheckpointError` that is raised inside."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return all bytes of a file.

    Raises:
        NotFoundError: the file does not exist or cannot be opened.
        CheckpointError: it has more than `max_bytes`.
    """
    with open_file(path) as file:
        # Python makes room for as many bytes as it is asked for.
        content = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
    if len(content) > max_bytes:
        raise CheckpointError(f"{path} has more than {max_bytes} bytes, which is too much")
    return content


def read_json_object(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        NotFoundError: the file does not exist or cannot be opened.
        CheckpointError: it does not hold a JSON object, or has more than `max_bytes`.
    """
    content = read_bounded(path, max_bytes)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return value


def xxh3_of_files(paths: Iterable[Path]) -> str:
    """Return `xxh3:` and 16 hex digits, a hash of the bytes of files.

    It is XXH3-64 with seed 0, over the files one after the other.

    Raises:
        NotFoundError: a file cannot be opened.
    """
    digest = xxhash.xxh3_64()
    for path in paths:
        with open_file(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return f"xxh3:{digest.hexdigest()}"
