"""The zip archive that `torch.save` (PyTorch >= 1.6) writes, with all members uncompressed.

`NAME/data.pkl` pickles the saved object, `NAME/data/KEY` holds the bytes of storage KEY, and
`NAME/byteorder` (since 2.1) says `little` or `big`.
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rbe_cli.checkpoint.files import open_file
from rbe_cli.errors import CheckpointError

# What PyTorch before 1.6 wrote begins with this pickled number (torch.serialization.MAGIC_NUMBER).
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
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


class TorchArchive:
    """An open archive; its members are named without the leading `NAME/`."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._file_bytes = path.stat().st_size
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"{path} is not a file that torch.save wrote: no single data.pkl")
        self._root = pickles[0].removesuffix("data.pkl")
        if self._root + "byteorder" in archive.namelist() and self.read("byteorder") != b"little":
            raise CheckpointError(f"{path} was saved on a machine that is not little-endian")

    def size(self, member: str) -> int:
        """Bytes of a member.

        Raises:
            CheckpointError: there is none, or it is compressed or larger than the file.
        """
        return self._info(member).file_size

    def read(self, member: str) -> bytes:
        """The bytes of a member; their CRC-32 is checked."""
        return self._archive.read(self._info(member))

    def _info(self, member: str) -> zipfile.ZipInfo:
        try:
            info = self._archive.getinfo(self._root + member)
        except KeyError as error:
            raise CheckpointError(f"{self._path} lacks its member {member[:80]!r}") from error
        # As it is stored, it cannot expand to more than the file holds.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise CheckpointError(f"{self._path}: its member {member[:80]!r} is compressed")
        if info.file_size > self._file_bytes:
            raise CheckpointError(f"{self._path}: its member {member[:80]!r} exceeds the file")
        return info


@contextmanager
def open_torch_archive(path: Path) -> Iterator[TorchArchive]:
    """Open the archive; what `zipfile` raises meanwhile becomes a `CheckpointError`.

    Raises:
        NotFoundError: the file cannot be opened.
        CheckpointError: it is not such an archive, or it is damaged.
    """
    with open_file(path) as file:
        if file.read(len(_LEGACY_MAGIC)) == _LEGACY_MAGIC:
            raise CheckpointError(
                f"{path} has the format of PyTorch before 1.6: load and save it with a newer one"
            )
        try:
            with zipfile.ZipFile(file) as archive:
                yield TorchArchive(path, archive)
        except _ZIP_ERRORS as error:
            raise CheckpointError(f"{path} is not a file that torch.save wrote: {error}") from error
