"""Keep what a long task has finished beside its output, so that it can be taken up again.

The folder holds `.npz` files, each with the arrays of one finished step. A file appears whole or
not at all, and one that was damaged since counts as missing. Arrays that would not fit in memory
together also wait here until they are needed.
"""

import os
import stat
import sys
import weakref
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import numpy as np
import psutil
from numpy.typing import NDArray

from rbe_cli.checkpoint.npy_header import check_npy_header
from rbe_cli.container.atomic_write import gone_error, sync_folder, write_error
from rbe_cli.errors import OutputError, UsageError
from rbe_cli.runtime.process_lock import try_lock

Arrays = dict[str, NDArray[Any]]
_MARKER, _PARTIAL = "job.json", "partial"
_MARKER_BYTES = 1 << 24  # that are read of it
_DAMAGED = (ValueError, EOFError, zipfile.BadZipFile)  # what numpy raises for such a file


class _Job(msgspec.Struct, frozen=True):
    """Say what a folder belongs to.

    Attributes:
        job: says all that the results depend on.
        process: its id, with the time it started, in seconds.
    """

    job: dict[str, object]
    process: tuple[int, float]


class WorkFolder:
    """Hold the results of a task's finished steps, by name."""

    def __init__(self, path: Path, lock: int | None = None, prefix: str = "") -> None:
        """Set the folder.

        Args:
            path: the folder.
            lock: its descriptor, which is locked for this object; None where there is none.
            prefix: begins the names of the files of all steps.
        """
        self.path = path
        self._prefix = prefix
        self._unlock = weakref.finalize(self, os.close, lock) if lock is not None else None

    @classmethod
    def open(cls, path: Path, job: Mapping[str, object], *, resume: bool) -> "WorkFolder":
        """Take up the folder of the same job, or begin an empty one.

        Args:
            path: the folder.
            job: all that the results depend on, in types that JSON has.
            resume: whether what is there is kept.

        Raises:
            UsageError: `resume`, and what is there belongs to another job.
            OutputError: another process works there, the folder is not one of these, or it
                cannot be written.
        """
        ours = psutil.Process()
        record = _Job(msgspec.json.decode(msgspec.json.encode(job)), (ours.pid, ours.create_time()))
        folder = cls(path)
        try:
            folder = cls(path, _locked(path))
            if found := folder._found():
                _check_free(path, found)
                if resume and found.job != record.job:
                    raise UsageError(
                        f"{path} holds the work of another job: `resume` needs the same source, "
                        "settings and version; without it the work begins anew"
                    )
                if not resume:
                    folder._clear()
            folder._write(_MARKER, lambda file: _write_safely(file, msgspec.json.encode(record)))
            sync_folder(path)  # so that no power cut leaves steps without the marker
        except BaseException as error:
            folder.release()
            if isinstance(error, OSError):
                raise folder._cannot_write(error) from error
            raise
        return folder

    def part(self, prefix: str) -> "WorkFolder":
        """Return the same folder for other steps, whose files have a prefix."""
        return WorkFolder(self.path, prefix=f"{self._prefix}{prefix}")

    def release(self) -> None:
        """Let another process, or another object of this one, work in the folder."""
        if self._unlock is not None:
            self._unlock()

    def load(self, name: str) -> Arrays | None:
        """Return the arrays of a step; None if it is not finished."""
        try:
            return self._read(name)
        except (OSError, *_DAMAGED):
            return None

    def require(self, name: str) -> Arrays:
        """Return the arrays of a step that was finished before.

        Raises:
            OutputError: the arrays were damaged or deleted since, or cannot be read.
        """
        try:
            return self._read(name)
        except (FileNotFoundError, *_DAMAGED) as error:
            raise OutputError(f"{self.path} is damaged: begin anew, without `resume`") from error
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"cannot read {self._file(name)}: {reason}") from error

    def save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep the arrays of a finished step.

        Raises:
            OutputError: the arrays cannot be written.
        """
        try:
            self._write(
                self._file(name).name, lambda file: np.savez(file, allow_pickle=False, **arrays)
            )
        except OSError as error:
            raise self._cannot_write(error) from error

    def keep(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a step, which is computed and saved unless it is finished."""
        arrays = self.load(name)
        if arrays is None:
            arrays = compute()
            self.save(name, arrays)
        return arrays

    def discard(self, name: str) -> None:
        """Forget a step that no later one needs."""
        with suppress(OSError):
            self._file(name).unlink()

    def remove(self) -> None:
        """Delete the folder; what is not of this tool stays."""
        with suppress(OSError):
            self._clear()
            self.path.rmdir()
        self.release()

    def _read(self, name: str) -> Arrays:
        # numpy would leave a damaged file open if it opened it itself.
        with _opened(self._file(name)) as file:
            _check_sizes(file)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)

    def _file(self, name: str) -> Path:
        return self.path / f"{self._prefix}{name}.npz"

    def _clear(self) -> None:
        for file in (*self.path.glob("*.npz"), self.path / _PARTIAL, self.path / _MARKER):
            file.unlink(missing_ok=True)

    def _write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        (self.path / _PARTIAL).unlink(missing_ok=True)
        with open(self.path / _PARTIAL, "xb") as file:  # which follows no link
            write(file)
        os.replace(self.path / _PARTIAL, self.path / name)

    def _found(self) -> _Job | None:
        """Return what the folder belongs to; None if nothing was finished in it."""
        if {path.name for path in self.path.iterdir()} <= {_PARTIAL}:
            return None
        try:
            with _opened(self.path / _MARKER) as file:
                return msgspec.json.decode(file.read(_MARKER_BYTES), type=_Job)
        except (FileNotFoundError, msgspec.DecodeError, RecursionError, ValueError) as error:
            raise OutputError(f"{self.path} is in the way: it holds other files") from error

    def _cannot_write(self, error: OSError) -> OutputError:
        """Return the error to raise; it names this folder, or the one that it lies in."""
        if isinstance(error, FileNotFoundError) and self.path.parent.is_dir():
            return gone_error(self.path / _PARTIAL, self.path)
        return write_error(self.path, error)


def _locked(path: Path) -> int | None:
    """Make a folder, unless it exists, and lock it; return its descriptor, or None on Windows.

    Raises:
        OutputError: another process has the lock.
        OSError: the folder cannot be made or opened.
    """
    while True:
        path.mkdir(exist_ok=True)
        if sys.platform == "win32":  # which opens no folders
            return None
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not try_lock(descriptor):
                raise OutputError(f"another process works in {path} at this moment")
            # Who had the lock before may have deleted the folder meanwhile.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> BinaryIO:
    """Open a file that was written here.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a pipe or a device, which may have no end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is not a regular file")
    return open(path, "rb")


def _check_sizes(file: BinaryIO) -> None:
    """Refuse arrays that take more memory than the bytes of their file.

    None that was written here does. numpy makes room for what an array's header says, and
    for all that a compressed part becomes.

    Raises:
        ValueError: the file was damaged, or made by others.
        OSError: it cannot be read.
    """
    left = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                left -= member.file_size
                if left < 0 or member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("the arrays are larger than their file")
                with archive.open(member) as part:
                    check_npy_header(cast(BinaryIO, part), member.file_size)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # zipfile raises many classes, such as that of encrypted parts
        raise ValueError("no file of arrays") from error
    file.seek(0)


def _write_safely(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _check_free(path: Path, found: _Job) -> None:
    process, started = found.process
    if process == os.getpid():
        return
    try:
        if abs(psutil.Process(process).create_time() - started) < 1:
            raise OutputError(f"process {process} works in {path} at this moment")
    except psutil.Error:  # it has ended
        return
