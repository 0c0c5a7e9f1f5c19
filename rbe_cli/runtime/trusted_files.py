"""Read machine code only where nobody but its user, or the system's administrator, can write.

A checksum in a file finds damage, no forgery: who writes the code writes the checksum, too.
"""

import os
import stat
import warnings
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ROOT = 0


class RefusedCodeWarning(UserWarning):
    """Machine code is left alone because somebody else may have written it."""


def refuse(where: Path, reason: str) -> None:
    """Warn that machine code is not used; it is compiled for this process instead."""
    message = f"compiled programs are not taken from {where}, as {reason}"
    warnings.warn(message, RefusedCodeWarning, stacklevel=2)


def read_trusted(path: Path) -> bytes | None:
    """Return the bytes of a file that only this user or root can have written, in such a folder.

    The folder and the file are opened once, and what is open is checked and read: neither can be
    exchanged in between. A link in the place of the file is not followed. Windows, which has
    other rules of access, is taken at its word.

    Returns:
        The bytes; None if there is no such file, or it is refused with a warning.
    """
    if not hasattr(os, "geteuid"):
        return _read_plain(path)
    folder = _open(path.parent, os.O_DIRECTORY)
    if folder is None:
        return None
    try:
        if fault := _fault(os.fstat(folder)):
            refuse(path.parent, fault)
            return None
        file = _open(Path(path.name), os.O_NOFOLLOW | os.O_NONBLOCK, folder)
        if file is None:
            return None
        with open(file, "rb") as content:
            status = os.fstat(file)
            is_file = stat.S_ISREG(status.st_mode)
            if fault := _fault(status) if is_file else "it is not a regular file":
                refuse(path, fault)
                return None
            return content.read()
    finally:
        os.close(folder)


def make_trusted_folder(path: Path) -> bool:
    """Make a folder that only this user can enter, if there is none; return whether it is trusted.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return not hasattr(os, "geteuid") or _fault(os.stat(path)) is None


def _open(path: Path, flags: int, folder: int | None = None) -> int | None:
    """Return a descriptor for reading; None if there is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError:
        return None


def _fault(status: os.stat_result) -> str | None:
    """Return why others can have written a file or folder; None if they cannot."""
    if status.st_uid not in (os.geteuid(), _ROOT):
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & _OTHERS_WRITE:
        return f"others can write there (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def _read_plain(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
