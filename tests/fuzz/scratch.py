"""Files in memory, for readers that take paths."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

RUN_FOLDER = "RBE_FUZZ_FOLDER"  # environment variable: the folder of a run of several workers
_MEMORY = Path("/dev/shm")  # files there never reach a disk


def parent_folder() -> str | None:
    """Return where scratch folders are made: in that of a run, else in memory if possible."""
    in_memory = str(_MEMORY) if os.access(_MEMORY, os.W_OK) else None
    return os.environ.get(RUN_FOLDER, in_memory)


class ScratchFolder:
    """A folder whose files are rewritten case after case.

    It vanishes when the process exits. That of a worker, which is killed, vanishes with its run.
    """

    def __init__(self) -> None:
        """Make an empty folder when it is first used."""
        self._path: Path | None = None
        self._files: dict[str, int] = {}
        self._owner = os.getpid()

    @property
    def path(self) -> Path:
        """Return the folder."""
        if self._path is None or self._owner != os.getpid():
            self._path = Path(tempfile.mkdtemp(prefix="rbe-fuzz-", dir=parent_folder()))
            self._files, self._owner = {}, os.getpid()
            atexit.register(self.remove)
        return self._path

    def write(self, name: str, data: bytes) -> Path:
        """Write a file, and return its path. It stays open, so that the next write is cheap."""
        path = self.path / name
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(file, len(data))
        os.pwrite(file, data, 0)
        return path

    def keep_only(self, names: "set[str]") -> None:
        """Remove the files with other names."""
        for name in self._files.keys() - names:
            os.close(self._files.pop(name))
            (self.path / name).unlink()

    def remove(self) -> None:
        """Remove the folder."""
        if self._path is not None and self._owner == os.getpid():
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None


SCRATCH = ScratchFolder()
