"""Open and read files, and raise the errors that a user should see."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from rbe_cli.errors import CheckpointError, NotFoundError

_CHUNK_BYTES = 1 << 22
MAX_CONFIG_BYTES = 1 << 24  # of a configuration or an index of shards


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises:
        NotFoundError: it does not exist or cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror}") from error


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
        content = file.read(max_bytes + 1)
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
