"""Write a file atomically: it gets its name only once it is complete (atomic_write.py)."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rbe_cli.container.atomic_write import (
    check_place,
    exists_error,
    output_errors,
    sync_folder,
    temporary_names,
)
from rbe_cli.errors import OutputError


def check_output(path: Path, *, force: bool) -> None:
    """Refuse a path that cannot be written, before any work is done.

    Args:
        path: the final name of the file.
        force: whether an existing file may be replaced.

    Raises:
        NotFoundError: the folder does not exist.
        OutputError: the folder is not writable, or `path` exists and `force` is not set,
            or `path` is not a regular file (but a folder, a link, a device).
    """
    check_place(path, stat.S_ISREG, "regular file", force=force)


def check_kind(path: Path, start: bytes) -> None:
    """Refuse to replace a file of another kind, such as the command's own input.

    Args:
        path: the output file, which need not exist.
        start: the first bytes of every file of the kind that may be replaced.

    Raises:
        OutputError: the file exists and begins with other bytes.
    """
    try:
        with open(path, "rb") as file:
            found = file.read(len(start))
    except OSError:  # no such file, or an error that `new_file` reports
        return
    if found and found != start:
        raise OutputError(f"{path} is a file of another kind, which `force` does not replace")


@contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Open a file for writing, which gets the name `path` when the block ends without error.

    Args:
        path: the final name. Its folder must exist.
        force: whether an existing file of that name may be replaced.

    Yields:
        The temporary file, open for writing bytes.

    Raises:
        NotFoundError: as in `check_output`.
        OutputError: as in `check_output`, or a file of that name was made in the meantime,
            or writing failed (disk full, quota, input/output error).
    """
    check_output(path, force=force)
    temporary, _ = temporary_names(path)
    with output_errors(path):
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
        finally:
            with suppress(OSError):
                temporary.unlink()


def _publish_new(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, this never overwrites
    except FileExistsError as error:
        raise exists_error(path) from error
    except OSError:  # the file system has no hard links
        if os.path.lexists(path):
            raise exists_error(path) from None
        os.replace(temporary, path)
