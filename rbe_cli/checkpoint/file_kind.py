"""Recognise what a file holds by its first bytes, whatever its name is."""

import re
from enum import StrEnum
from pathlib import Path

from rbe_cli.checkpoint.checked_files import open_file
from rbe_cli.errors import CheckpointError

_HEAD_BYTES = 512
_MAX_SAFETENSORS_HEADER = 100_000_000  # bytes: the format's own limit


class FileKind(StrEnum):
    """List the kinds of files that are told apart."""

    safetensors = "a safetensors file"
    torch_zip = "a file of torch.save, or another zip archive"
    torch_legacy = "a file of torch.save before PyTorch 1.6"
    torch_tar = "a file of torch.save before PyTorch 0.1.2, or another tar archive"
    pickle = "a plain pickle"
    gguf = "a GGUF file"
    rbe = "an .rbe file"
    lfs_pointer = "a Git LFS pointer"
    html = "a web page"
    hdf5 = "an HDF5 file"
    empty = "an empty file"
    unknown = "something else"


CHECKPOINT_KINDS = (
    FileKind.safetensors,
    FileKind.torch_zip,
    FileKind.torch_legacy,
    FileKind.torch_tar,
    FileKind.gguf,
)

# The pickled number torch.serialization.MAGIC_NUMBER, in pickle protocol 2 (opcode 2 bytes, LONG1).
_LEGACY_TORCH = re.compile(
    rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", re.DOTALL
)
_SIGNATURES = (
    (re.compile(rb"PK\x03\x04"), FileKind.torch_zip),
    (_LEGACY_TORCH, FileKind.torch_legacy),
    (re.compile(rb".{257}ustar", re.DOTALL), FileKind.torch_tar),
    (re.compile(rb"GGUF"), FileKind.gguf),
    (re.compile(rb"\x89RBE"), FileKind.rbe),
    (re.compile(rb"version https://git-lfs"), FileKind.lfs_pointer),
    (re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml)", re.IGNORECASE), FileKind.html),
    (re.compile(rb"\x89HDF\r\n"), FileKind.hdf5),
    (re.compile(rb"\x80[\x02-\x05][\x95}\](cX\x8c]"), FileKind.pickle),
)


def file_kind(path: Path) -> FileKind:
    """Return what kind of file this is.

    Raises:
        NotFoundError: it cannot be opened.
    """
    head = _head(path)
    if not head:
        return FileKind.empty
    for signature, kind in _SIGNATURES:
        if signature.match(head):
            return kind
    # Eight bytes of the header's length, then the header, which is a JSON object.
    if int.from_bytes(head[:8], "little") <= _MAX_SAFETENSORS_HEADER and head[8:9] == b"{":
        return FileKind.safetensors
    return FileKind.unknown


def refuse_placeholder(path: Path) -> None:
    """Refuse a file that stands where the real file should be.

    Raises:
        NotFoundError: the file cannot be opened.
        CheckpointError: it is a Git LFS pointer, a web page or empty.
    """
    kind = file_kind(path)
    if kind is FileKind.lfs_pointer:
        size = re.search(rb"^size (\d{1,18})$", _head(path), re.MULTILINE)
        told = f" ({int(size[1]) / 1e6:.1f} MB)" if size else ""
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself{told}: get it with git lfs pull"
        )
    if kind is FileKind.html:
        raise CheckpointError(
            f"{path} is a web page, not the file itself: download it from the address with "
            "/resolve/ instead of /blob/"
        )
    if kind is FileKind.empty:
        raise CheckpointError(f"{path} is empty: its download did not finish")


def _head(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(_HEAD_BYTES)
