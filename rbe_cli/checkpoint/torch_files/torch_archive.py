"""Read the zip archive that `torch.save` (PyTorch >= 1.6) writes, all members uncompressed.

`NAME/data.pkl` pickles the saved object, `NAME/data/KEY` holds the bytes of storage KEY, and
`NAME/byteorder` (since 2.1) says `little` or `big`.
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rbe_cli.checkpoint.checked_files import errors_name, open_file
from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import clipped, quoted

# All that `zipfile` raises for a damaged archive.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)
_MAX_DIRECTORY_BYTES = 1 << 21  # of the list of members; 25,000 of PyTorch's take so many
_LITTLE = b"little"


class _BoundedFile:
    """Read a file for `zipfile`, which reads the list of members at once, whatever its size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.limit: int | None = _MAX_DIRECTORY_BYTES

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes."""
        if self.limit is not None and size > self.limit:
            raise CheckpointError("it is not a file that torch.save wrote: too many members")
        return self._file.read(size)


class TorchArchive:
    """Read an open archive; its members are named without the leading `NAME/`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._file_bytes = path.stat().st_size
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError("it is not a file that torch.save wrote: no single data.pkl")
        self._root = pickles[0].removesuffix("data.pkl")
        if self._root + "constants.pkl" in archive.namelist():
            raise CheckpointError(
                "it is a TorchScript program, not a state dict: load it with torch.jit.load "
                "and save its state_dict()"
            )
        if self._root + "byteorder" in archive.namelist() and not self._is_little_endian():
            raise CheckpointError("it was saved on a machine that is not little-endian")

    def size(self, member: str) -> int:
        """Return the number of bytes of a member.

        Raises:
            CheckpointError: there is none, or it is compressed or larger than the file.
        """
        return self._info(member).file_size

    def read(self, member: str) -> bytes:
        """Return the bytes of a member, after checking their CRC-32."""
        return self._archive.read(self._info(member))

    def _is_little_endian(self) -> bool:
        return self.size("byteorder") == len(_LITTLE) and self.read("byteorder") == _LITTLE

    def _info(self, member: str) -> zipfile.ZipInfo:
        try:
            info = self._archive.getinfo(self._root + member)
        except KeyError as error:
            raise CheckpointError(f"it lacks its member {quoted(member)}") from error
        # As it is stored, it cannot expand to more than the file holds.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise CheckpointError(f"its member {quoted(member)} is compressed")
        if info.file_size > self._file_bytes:
            raise CheckpointError(f"its member {quoted(member)} exceeds the file")
        return info


@contextmanager
def open_torch_archive(path: Path) -> Iterator[TorchArchive]:
    """Open the archive; errors inside name the file, and those of `zipfile` are translated.

    Raises:
        NotFoundError: the file cannot be opened.
        CheckpointError: it is not such an archive, or it is damaged.
    """
    with errors_name(path), open_file(path) as file:
        try:
            bounded = _BoundedFile(file)
            with zipfile.ZipFile(bounded) as archive:
                bounded.limit = None
                yield TorchArchive(path, archive)
        except _ZIP_ERRORS as error:
            raise CheckpointError(
                f"it is not a file that torch.save wrote: {clipped(str(error), 200)}"
            ) from error
