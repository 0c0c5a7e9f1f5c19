"""Files in memory, for readers that take paths."""

import os
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")  # files there never reach a disk


class ScratchFolder:
    """A folder whose files are rewritten case after case. It vanishes with the process."""

    def __init__(self) -> None:
        """Make an empty folder when it is first used."""
        self._path: Path | None = None
        self._files: dict[str, int] = {}
        self._owner = os.getpid()

    @property
    def path(self) -> Path:
        """Return the folder."""
        if self._path is None or self._owner != os.getpid():
            parent = _MEMORY if os.access(_MEMORY, os.W_OK) else None
            self._path = Path(tempfile.mkdtemp(prefix="rbe-fuzz-", dir=parent))
            self._files, self._owner = {}, os.getpid()
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
