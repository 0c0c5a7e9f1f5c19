"""Hold what an atomic write of a file and of a folder share: checks, temporary names, errors.

New content is written as `.rbe-*.partial` beside its place, synced, and given its name in one
step. Until then, whatever has that name stays as it is. A leftover of that pattern (after a
power cut or SIGKILL) can be deleted.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rbe_cli.errors import NotFoundError, OutputError


def check_place(path: Path, is_kind: Callable[[int], bool], kind: str, *, force: bool) -> bool:
    """Refuse early a path that cannot be written or replaced; return whether it exists.

    Args:
        path: the final name.
        is_kind: says of a mode (`os.stat_result.st_mode`) whether it may be replaced.
        kind: what `is_kind` accepts, as an error names it.
        force: whether something of that kind may be replaced.

    Raises:
        NotFoundError: the folder of `path` does not exist.
        OutputError: that folder cannot be written, or `path` exists and is of another kind, or
            it exists and `force` is not set.
    """
    if not os.path.isdir(path.parent):
        raise NotFoundError(f"cannot write {path}: folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: folder {path.parent} is not writable")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    if not is_kind(mode):
        raise OutputError(f"cannot write {path}: it exists and is not a {kind}")
    if not force:
        raise exists_error(path)
    return True


def temporary_names(place: Path) -> tuple[Path, Path]:
    """Return unused names beside `place`: for its new content, and for what it replaces."""
    token = secrets.token_hex(8)
    return place.with_name(f".rbe-{token}.partial"), place.with_name(f".rbe-{token}.old")


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's error inside the block into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, where the file system can promise that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def exists_error(path: Path) -> OutputError:
    """Return the error for an output that exists already."""
    return OutputError(f"{path} exists; use `force` to replace it")
