"""Read parts of a file that stays open, each part into memory that nobody else can change.

A `.rbe` file is not mapped. Where a mapped file is cut short by another program, the system ends
the process (SIGBUS) at the next access; and a mapped byte may change between its check and its use.
"""

import mmap
import os
import stat
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rbe_cli.errors import TruncatedError

_LARGEST_READ = 1 << 30  # bytes: systems read no more than 2 GB at once


class Bytes(Protocol):
    """The bytes of a file. A `memoryview` is such an object, too."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> memoryview: ...

    def release(self) -> None:
        """Let go of the file; using it afterwards raises `ValueError`."""


class FileBytes:
    """The bytes of an open file, which are read when a slice of them is asked for.

    Processes that are forked may use it side by side, and so may threads.
    """

    def __init__(self, path: Path) -> None:
        """Open a regular file.

        Raises:
            OSError: it cannot be opened.
            ValueError: it is a device or a pipe, which has no end.
        """
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._close = weakref.finalize(self, _close, descriptor)
        self._descriptor = descriptor
        self._guard = threading.Lock()  # of the file's position, where there is no `preadv`
        self._opened = _state(descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._close()
            raise ValueError(f"{path} is not a regular file")

    def __len__(self) -> int:
        """Return the size that the file had when it was opened."""
        return self._opened[0]

    def __getitem__(self, part: slice, /) -> memoryview:
        """Read a slice without a step.

        Returns:
            Bytes that nobody else can change, as of `anonymous`.

        Raises:
            TruncatedError: the file has become shorter since it was opened.
            OSError: the system cannot read it.
            ValueError: the file was released.
        """
        start, stop, _ = part.indices(len(self))
        content = anonymous(max(0, stop - start))
        self.read_into(content, start)
        return content.toreadonly()

    def read_into(self, content: memoryview, start: int) -> None:
        """Fill `content` with the bytes that begin at `start`; errors as of a slice."""
        if not self._close.alive:
            raise ValueError("the file was released")
        size, done = len(content), 0
        while done < size:
            count = self._read(content[done : done + _LARGEST_READ], start + done)
            if count == 0:
                raise TruncatedError("the file has become shorter since it was opened")
            done += count

    def release(self) -> None:
        """Close the file. What was read stays."""
        self._close()

    def has_changed(self) -> bool:
        """Return whether the file has another size or time of change than when it was opened."""
        return _state(self._descriptor) != self._opened

    def _read(self, content: memoryview, offset: int) -> int:
        """Read into `content`, as many bytes as the system gives at once; return their number."""
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, [content], offset)
        with self._guard:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            found = os.read(self._descriptor, len(content))
        content[: len(found)] = found
        return len(found)


def _close(descriptor: int) -> None:
    with suppress(OSError):  # nothing was written
        os.close(descriptor)


def anonymous(size: int) -> memoryview:
    """Return memory that begins at a page, and goes back to the system with its last view."""
    return memoryview(mmap.mmap(-1, size)) if size else memoryview(b"")


def _state(descriptor: int) -> tuple[int, int]:
    """Return a file's size, and the time when it was last written to."""
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns
