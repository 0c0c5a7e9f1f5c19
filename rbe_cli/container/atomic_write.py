"""Share the steps of writing files and folders atomically: checks, temporary names, errors.

New content is written to `.rbe-*.partial` in the same folder, flushed to the disk, and then
renamed in one step. Until then an existing file or folder of the final name is unchanged. A
`.rbe-*.partial` that remains after a power cut or SIGKILL can be deleted.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rbe_cli.errors import NotFoundError, OutputError


def check_place(path: Path, is_kind: Callable[[int], bool], kind: str, *, force: bool) -> bool:
    """Refuse a path that cannot be written or replaced, and return whether it exists.

    Args:
        path: the final name.
        is_kind: returns whether a mode (`os.stat_result.st_mode`) is of the expected kind.
        kind: the name of that kind, for the error message.
        force: whether an existing file or folder of that kind may be replaced.

    Raises:
        NotFoundError: the folder of `path` does not exist.
        OutputError: that folder is not writable, or `path` exists and is of another kind, or
            `path` exists and `force` is not set.
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
    """Return two unused names in the folder of `place`: for the new and for the old content."""
    token = os.urandom(8).hex()
    return place.with_name(f".rbe-{token}.partial"), place.with_name(f".rbe-{token}.old")


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Raise an `OSError` of the block again as an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> OutputError:
    """Return the error for an output that could not be written in a folder that was there."""
    if isinstance(error, FileNotFoundError) and _is_gone(path.parent):
        return gone_error(path, path.parent)
    return OutputError(f"cannot write {path}: {error.strerror or error}")


def gone_error(path: Path, folder: Path) -> OutputError:
    """Return the error for an output that cannot be written as a folder is not there any more."""
    return OutputError(
        f"cannot write {path}: the folder {folder} is gone; it was deleted or renamed meanwhile"
    )


def _is_gone(folder: Path) -> bool:
    try:
        os.getcwd()  # which is deleted but still there, for its processes
    except FileNotFoundError:
        return not folder.is_absolute()
    return not folder.is_dir()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system and the file system can.

    Raises:
        OSError: they could not be written.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows; or a folder that may be written to, but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(descriptor)


def exists_error(path: Path) -> OutputError:
    """Return the error for an output that exists already."""
    return OutputError(f"{path} exists; use `force` to replace it")
