"""Write a folder atomically: it appears under its name whole, or not at all (atomic_write.py).

An old folder that the new one replaces is first renamed to `.rbe-*.old`, and deleted once the
new one is in place. It is put back if that fails. A leftover of this pattern stays only after a
power cut or SIGKILL.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rbe_cli.container.atomic_write import (
    check_place,
    output_errors,
    sync_folder,
    temporary_names,
)
from rbe_cli.errors import OutputError

IsReplaceable = Callable[[str], bool]


def check_folder(path: Path, is_replaceable: IsReplaceable, *, force: bool) -> None:
    """Refuse early a folder that cannot be written, or that may not be replaced.

    Args:
        path: the folder to come.
        is_replaceable: says of a file's name whether `force` may delete it. An old folder is
            only replaced if it holds nothing but such files.
        force: whether an old folder may be replaced.

    Raises:
        NotFoundError: the folder that is to hold it does not exist.
        OutputError: it cannot be written, or exists and may not be replaced.
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
    """Make an empty folder that is published as `path` when the block ends without error.

    Args:
        path: the final name.
        is_replaceable, force: see `check_folder`.

    Yields:
        The folder to put files into; it may not hold other folders.

    Raises:
        NotFoundError: as `check_folder`.
        OutputError: as `check_folder`, or a folder of that name appeared in the meantime, or
            writing failed.
    """
    check_folder(path, is_replaceable, force=force)
    place = Path(os.path.abspath(path))  # `.` has no name itself
    temporary, old = temporary_names(place)
    with output_errors(path):
        try:
            temporary.mkdir()
            yield temporary
            _sync_files(temporary)
            check_folder(path, is_replaceable, force=force)
            if place.exists():
                _exchange(temporary, place, old)
            else:
                os.rename(temporary, place)
            sync_folder(place.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(new: Path, path: Path, old: Path) -> None:
    """Put the new folder in the place of the old one, whose files are deleted."""
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    with suppress(OSError):  # what cannot be deleted stays, under its temporary name
        for file in old.iterdir():
            file.unlink()
        old.rmdir()


def _sync_files(folder: Path) -> None:
    for file in folder.iterdir():
        with open(file, "rb+") as opened:
            os.fsync(opened.fileno())
    sync_folder(folder)
