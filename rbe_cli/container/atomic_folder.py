"""Write a folder atomically: it gets its name only once it is complete (atomic_write.py).

If an old folder is replaced, the two exchange their names in one step (path_exchange.py). Where the
system cannot, the old one is first renamed to `.rbe-*.old`, and gets its name back if placing the
new one fails. The old one is deleted once the new one is safe on the disk. A folder named
`.rbe-*.old` or `.rbe-*.partial` remains only after a power cut or SIGKILL, or if files cannot be
deleted.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rbe_cli.container import path_exchange
from rbe_cli.container.atomic_write import (
    check_place,
    exists_error,
    output_errors,
    sync_folder,
    temporary_names,
)
from rbe_cli.errors import OutputError

IsReplaceable = Callable[[str], bool]


def check_folder(path: Path, is_replaceable: IsReplaceable, *, force: bool) -> None:
    """Refuse a folder that cannot be written or replaced, before any work is done.

    Args:
        path: the final name of the folder.
        is_replaceable: returns, for the name of a file, whether `force` may delete that file.
            An old folder is replaced only if all its entries are such files.
        force: whether an existing folder may be replaced.

    Raises:
        NotFoundError: the parent folder does not exist.
        OutputError: `path` cannot be written, or it exists and may not be replaced.
    """
    if not check_place(path, stat.S_ISDIR, "folder", force=force):
        return
    with output_errors(path), os.scandir(path) as entries:
        others = sorted(
            entry.name
            for entry in entries
            if not (entry.is_file(follow_symlinks=False) and is_replaceable(entry.name))
        )
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise OutputError(f"{path} holds other files, which `force` does not delete: {named}")


@contextmanager
def new_folder(path: Path, is_replaceable: IsReplaceable, *, force: bool) -> Iterator[Path]:
    """Make an empty folder, which gets the name `path` when the block ends without error.

    Args:
        path: the final name.
        is_replaceable, force: see `check_folder`.

    Yields:
        The temporary folder. It may be filled with files, but not with folders.

    Raises:
        NotFoundError: as in `check_folder`.
        OutputError: as in `check_folder`, or a folder of that name was made in the meantime,
            or writing failed.
    """
    check_folder(path, is_replaceable, force=force)
    place = Path(os.path.abspath(path))  # the path `.` has no name of its own
    temporary, old = temporary_names(place)
    with output_errors(path):
        try:
            temporary.mkdir()
            yield temporary
            _sync_files(temporary)
            check_folder(path, is_replaceable, force=force)
            if place.exists():
                _replace(temporary, place, old)
            else:
                _name(temporary, place)
            try:
                sync_folder(place.parent)
            finally:
                _delete_old(old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _name(new: Path, path: Path) -> None:
    """Give the new folder its name, unless another process made a folder of that name."""
    try:
        os.rename(new, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise exists_error(path) from error
        raise


def _replace(new: Path, path: Path, old: Path) -> None:
    """Replace the folder at `path` by the new one; what was there is at `old` then."""
    if path_exchange.exchange(new, path):
        os.rename(new, old)
        return
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise


def _delete_old(old: Path) -> None:
    with suppress(OSError):  # files that cannot be deleted stay in `old`
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def _sync_files(folder: Path) -> None:
    for file in folder.iterdir():
        with open(file, "rb+") as opened:
            os.fsync(opened.fileno())
    sync_folder(folder)
