"""A new file appears under its name whole, or not at all.

It is written to a temporary file `.rbe-*.partial` in the same folder, synced, and given
its name in one step. Until then an old file of that name stays as it is; a leftover
of that pattern (after a power cut or SIGKILL) can be deleted.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rbe_cli.errors import NotFoundError, OutputError


def check_output(path: Path, *, force: bool) -> None:
    """Refuse early what cannot be written, before work is spent on it.

    Raises:
        NotFoundError: the folder does not exist.
        OutputError: the folder cannot be written, or `path` exists and `force` is not set,
            or it is something else than a file (a folder, a link, a device).
    """
    check_parent(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise OutputError(f"cannot write {path}: it exists and is not a regular file")
    if not force:
        raise exists_error(path)


def check_parent(path: Path) -> None:
    """Refuse a place in a folder that does not exist or cannot be written.

    Raises:
        NotFoundError: the folder does not exist.
        OutputError: it cannot be written.
    """
    if not os.path.isdir(path.parent):
        raise NotFoundError(f"cannot write {path}: folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: folder {path.parent} is not writable")


def check_kind(path: Path, start: bytes) -> None:
    """Refuse to replace a file of another kind, which may be a command's own input.

    Args:
        path: may exist.
        start: what an older output begins with.

    Raises:
        OutputError: it exists and begins otherwise.
    """
    try:
        with open(path, "rb") as file:
            found = file.read(len(start))
    except OSError:  # it does not exist, or publishing it says what is wrong
        return
    if found and found != start:
        raise OutputError(f"{path} is a file of another kind, which --force does not replace")


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Open a file for writing that is published as `path` when the block ends without error.

    Args:
        path: the final name; its folder exists.
        force: whether a file of that name may be replaced.

    Raises:
        NotFoundError: as `check_output`.
        OutputError: as `check_output`, or a file of that name appeared in the meantime,
            or writing failed (disk full, quota, input/output error).
    """
    check_output(path, force=force)
    temporary = path.with_name(f".rbe-{secrets.token_hex(8)}.partial")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            os.replace(temporary, path)
        else:
            _publish_new(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _publish_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, never overwrites
    except FileExistsError as error:
        raise exists_error(path) from error
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise exists_error(path) from None
        os.replace(temporary, path)


def sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the file system can promise that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def exists_error(path: Path) -> OutputError:
    """Return the error for an output that is there already."""
    return OutputError(f"{path} exists; use --force to replace it")
