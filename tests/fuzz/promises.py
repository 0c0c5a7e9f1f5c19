"""What no reader may do beside reading: write files, start programs, print, fill the memory."""

import os
import resource
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

from fuzz.kinds import BrokenPromiseError, InputKind
from fuzz.scratch import SCRATCH

MOST_SECONDS = 2.0  # of CPU time that a case may take
BYTES_PER_BYTE = 64  # of memory that a case may take, beside `InputKind.memory`
_LARGEST_ALLOCATION = 1 << 30  # bytes of address space beside those that a worker has already
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_FORBIDDEN = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "pickle.find_class"),
)


def forbid_changes() -> None:
    """Refuse for the rest of the process what no reader does.

    An attempt raises `BrokenPromiseError`: to write a file outside of the scratch folder, to start
    a program, to connect, or to import what a pickle names.
    """
    own = str(SCRATCH.path)

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & _WRITING and path != os.devnull and not _is_own(path, own):
                raise BrokenPromiseError(f"a reader writes to {path!r}")
        elif event in _FORBIDDEN or (event in _CHANGES and not _is_own(arguments[0], own)):
            raise BrokenPromiseError(f"a reader does {event} {arguments!r}")

    sys.addaudithook(check)


def _is_own(path: object, folder: str) -> bool:
    return isinstance(path, int) or str(path).startswith(folder)


def refuse_warnings() -> None:
    """Let each warning that Python would show be an error, for the rest of the process."""
    warnings.simplefilter("error")
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)


class CapturedOutput:
    """Takes what the process writes to stdout and stderr from now on."""

    def __init__(self) -> None:
        """Redirect both."""
        self._file = os.memfd_create("output")
        for descriptor in (1, 2):
            os.dup2(self._file, descriptor)

    def take(self) -> str:
        """Return what was written since the last call."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        size = os.fstat(self._file).st_size
        if not size:
            return ""
        text = os.pread(self._file, min(size, 2000), 0).decode(errors="replace")
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        return text


def limit_memory() -> None:
    """Let a single large allocation fail, which the readers then would not translate."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _LARGEST_ALLOCATION
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


class PeakMemory:
    """Measures by how much the process's memory grows at most."""

    def __init__(self) -> None:
        """Begin a measurement."""
        self._files = [
            os.open(f"/proc/self/{name}", flags)
            for name, flags in (("clear_refs", os.O_WRONLY), ("status", os.O_RDONLY))
        ]
        self.restart()

    def restart(self) -> None:
        """Begin a measurement."""
        os.pwrite(self._files[0], b"5", 0)
        self._start = self._read(b"VmRSS:")

    def grown(self) -> int:
        """Return the bytes of the largest growth since the last start."""
        return max(0, self._read(b"VmHWM:") - self._start)

    def _read(self, key: bytes) -> int:
        status = os.pread(self._files[1], 4096, 0)
        return int(status[status.index(key) + len(key) :].split(None, 1)[0]) * 1024


def memory_bound(kind: InputKind, case: Any) -> int:
    """Return the bytes that reading a case may take."""
    return kind.memory + BYTES_PER_BYTE * kind.size(case)


def traced_peak(kind: InputKind, case: Any) -> int:
    """Return the most bytes that Python and numpy hold while a case is read."""
    tracemalloc.start()
    try:
        kind.verdict(case)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
