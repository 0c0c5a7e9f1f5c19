"""Write a file atomically: it appears under its name whole, or not at all (atomic_write.py)."""

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
    """Refuse early what cannot be written, before work is spent on it.

    Raises:
        NotFoundError: the folder does not exist.
        OutputError: the folder cannot be written, or `path` exists and `force` is not set,
            or it is something else than a file (a folder, a link, a device).
    """
    check_place(path, stat.S_ISREG, "regular file", force=force)


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
        raise OutputError(f"{path} is a file of another kind, which `force` does not replace")


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
