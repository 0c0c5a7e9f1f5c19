"""Make a chosen call of the operating system fail, and write down all calls on files of a folder.

The functions of `os`, and `open`, are replaced in this process. So are the files that `open`
returns: their reads and writes come here one by one, below Python's buffers.
"""

import builtins
import errno
import io
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from rbe_cli.container import path_exchange

KILL, SHORT = "SIGKILL", "short"  # beside the names of errors
_OF_PATHS = (
    *("rename", "replace", "link", "unlink", "remove", "mkdir", "rmdir"),
    *("scandir", "listdir", "truncate"),
)
_OF_FILES = ("fsync", "ftruncate", "close")


@dataclass(frozen=True)
class Call:
    """A call of the system.

    Attributes:
        kind: the function's name.
        paths: absolute, those that it names or the one of its file.
        data: what was written, and where; empty for other calls.
        offset: bytes from the start of the file.
        flags: of an `open`: the mode.
    """

    kind: str
    paths: tuple[str, ...]
    data: bytes = b""
    offset: int = 0
    flags: str = ""


@dataclass
class FaultySystem:
    """The system as one process sees it, with a fault in one call.

    Attributes:
        folder: only calls on files below it count.
        number: of the call that fails, from 0; None if none does.
        fault: the name of an error; `short` for half a read or write; or `SIGKILL`, which ends
            the process after the call.
        log: a file without a buffer, to which each call is pickled before it is made.
    """

    folder: Path
    number: int | None
    fault: str
    log: FileIO
    count: int = 0
    paths: dict[int, str] = field(default_factory=dict)  # of open files

    def install(self) -> None:
        """Begin; there is no way back, so a process of its own is needed."""
        for name in _OF_PATHS:
            self._replace(name, self._path_call(name, getattr(os, name)))
        for name in _OF_FILES:
            self._replace(name, self._file_call(name, getattr(os, name)))
        path_exchange.exchange = self._path_call("exchange", path_exchange.exchange)
        self._replace("open", self._os_open(os.open))
        self._replace("preadv", self._preadv(os.preadv))
        opened = self._open(open)
        builtins.open = io.open = opened  # type: ignore[assignment]

    def call(
        self, call: Call, run: Callable[[], Any], short: Callable[[], Any] | None = None
    ) -> Any:
        """Run a call, or let it fail."""
        number = self.count
        self.count += 1
        pickle.dump(call, self.log)
        if number != self.number:
            return run()
        if self.fault == KILL:
            try:
                run()
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == SHORT:
            return (short or run)()
        if call.kind == "close":  # the file is closed all the same
            run()
        code = getattr(errno, self.fault)
        raise OSError(code, os.strerror(code), *call.paths[:1])

    def is_ours(self, path: object) -> bool:
        """Return whether a path lies in the folder."""
        return isinstance(path, str | Path) and self._full(path).startswith(f"{self.folder}/")

    def _full(self, path: str | Path, dir_fd: int | None = None) -> str:
        above = self.paths.get(dir_fd) if dir_fd is not None else None
        return os.path.join(above, path) if above else os.path.abspath(path)

    def _replace(self, name: str, function: Callable[..., Any]) -> None:
        setattr(os, name, function)

    def _path_call(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(*arguments: Any, **options: Any) -> Any:
            named = [own for own in arguments if isinstance(own, str | Path)]
            if named:
                full = tuple(self._full(own, options.get("dir_fd")) for own in named)
            else:
                full = tuple(self.paths[own] for own in arguments if own in self.paths)
            if not full or not all(own.startswith(str(self.folder)) for own in full):
                return real(*arguments, **options)
            return self.call(Call(name, full), lambda: real(*arguments, **options))

        return replaced

    def _file_call(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(descriptor: int, *arguments: Any) -> Any:
            path = self.paths.get(descriptor)
            if path is None:
                return real(descriptor, *arguments)
            if name == "close":
                del self.paths[descriptor]
            return self.call(Call(name, (path,)), lambda: real(descriptor, *arguments))

        return replaced

    def _os_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def replaced(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            full = self._full(path, options.get("dir_fd"))
            if not full.startswith(str(self.folder)):
                return real(path, flags, mode, **options)
            kind = "w" if flags & os.O_CREAT else "r"
            call = Call("open", (full,), flags=kind)
            descriptor: int = self.call(call, lambda: real(path, flags, mode, **options))
            self.paths[descriptor] = full
            return descriptor

        return replaced

    def _preadv(self, real: Callable[..., int]) -> Callable[..., int]:
        def replaced(descriptor: int, buffers: list[memoryview], offset: int) -> int:
            path = self.paths.get(descriptor)
            if path is None:
                return real(descriptor, buffers, offset)
            short = [buffers[0][: max(1, len(buffers[0]) // 2)]]
            found: int = self.call(
                Call("read", (path,)),
                lambda: real(descriptor, buffers, offset),
                lambda: real(descriptor, short, offset),
            )
            return found

        return replaced

    def _open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        system = self

        def replaced(
            file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any
        ) -> Any:
            is_known = isinstance(file, int) and file in system.paths
            if not is_known and not system.is_ours(file):
                return real(file, mode, buffering, *rest, **named)
            plain = mode.replace("b", "").replace("t", "")
            raw = _RawFile(system, file, plain)
            if "+" in plain:
                buffered: Any = io.BufferedRandom(raw)
            else:
                buffered = io.BufferedReader(raw) if "r" in plain else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, *rest, **named)

        return replaced


class _RawFile(io.FileIO):
    """A file without a buffer, whose calls may fail."""

    def __init__(self, system: FaultySystem, file: Any, mode: str) -> None:
        self._system = system
        if isinstance(file, int):
            self._path = system.paths[file]
            super().__init__(file, mode)
            return
        self._path = system._full(file)
        call = Call("open", (self._path,), flags=mode)
        system.call(call, lambda: super(_RawFile, self).__init__(file, mode))
        system.paths[self.fileno()] = self._path

    def readinto(self, buffer: Any) -> Any:
        memory = memoryview(buffer).cast("B")
        read = super().readinto
        return self._system.call(
            Call("read", (self._path,)),
            lambda: read(memory),
            lambda: read(memory[: max(1, len(memory) // 2)]),
        )

    def readall(self) -> Any:
        read = super().readall
        return self._system.call(Call("read", (self._path,)), read)

    def read(self, size: Any = -1) -> Any:
        read = super().read
        return self._system.call(Call("read", (self._path,)), lambda: read(size))

    def write(self, data: Any) -> Any:
        content, write = bytes(data), super().write
        return self._system.call(
            Call("write", (self._path,), content, self.tell()),
            lambda: write(content),
            lambda: write(content[: max(1, len(content) // 2)]),
        )

    def truncate(self, size: Any = None) -> Any:
        cut = super().truncate
        return self._system.call(Call("ftruncate", (self._path,)), lambda: cut(size))

    def close(self) -> None:
        if self.closed:
            return
        self._system.paths.pop(self.fileno(), None)
        close = super().close
        self._system.call(Call("close", (self._path,)), close)
