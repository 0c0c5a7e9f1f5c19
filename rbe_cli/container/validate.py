"""Validate the bytes of an untrusted file, and return its header and layout.

The checks have the order of docs/FORMAT.md, and each raises the error named there. No memory
is allocated in proportion to a number of the file before that number is checked.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from rbe_cli.codec.registry import CODECS, codec_named
from rbe_cli.container.file_bytes import Bytes
from rbe_cli.container.file_layout import FileLayout, place
from rbe_cli.container.header import (
    FORMAT_VERSION,
    HEADER_LIMIT,
    MAGIC,
    PREAMBLE,
    ROTATED,
    Header,
    Matrix,
    Vector,
    checksum,
    encode_header,
)
from rbe_cli.errors import (
    CheckpointError,
    ChecksumError,
    GeometryError,
    HeaderError,
    MagicError,
    TruncatedError,
    VersionError,
)
from rbe_cli.model.tensor_names import is_matrix, stored_shapes, tensor_shapes
from rbe_cli.quoting import quoted


def read_layout(data: Bytes) -> tuple[Header, FileLayout]:
    """Validate a file except for its padding and the contents of its sections.

    Args:
        data: every byte of the file.

    Raises:
        ContainerError: the subclass that docs/FORMAT.md names for the first broken rule.
    """
    _check_magic(bytes(data[: len(MAGIC)]))
    version, encoded = _header_bytes(data)
    header = trusted_header(encoded, version)
    layout = place(header, len(encoded))
    if len(data) < layout.file_bytes:
        raise TruncatedError(f"the file has {len(data)} of {layout.file_bytes} bytes")
    if len(data) > layout.file_bytes:
        raise GeometryError(f"{len(data) - layout.file_bytes} bytes follow the last section")
    return header, layout


def check_padding(data: Bytes, layout: FileLayout) -> None:
    """Raise `GeometryError` if a byte between two sections is not zero."""
    for start, section in layout.padding():
        if any(data[start : section.offset]):
            raise GeometryError(f"the padding before section {quoted(section.name)} is not zero")


def trusted_header(encoded: bytes, version: int) -> Header:
    """Decode a header, and check every rule that concerns it alone.

    Args:
        encoded: the bytes of the header.
        version: the format version of the file.

    Raises:
        HeaderError: the header is malformed, or contradicts itself or its config.
        VersionError: it names an unknown codec, or an unknown version of a codec.
        GeometryError: the size of a tensor is not the one that its codec and shape require.
    """
    header = _decode(encoded)
    try:
        header.config.validate()
    except CheckpointError as error:
        raise HeaderError(str(error)) from error
    _check_codecs(header)
    shapes = (stored_shapes if version == ROTATED else tensor_shapes)(header.config)
    if version == ROTATED and header.config.n_embd == 1:
        raise HeaderError("a residual stream of one dimension cannot be rotated")
    _check_names("matrices", (m.name for m in header.matrices), filter(is_matrix, shapes))
    _check_names(
        "vectors",
        (v.name for v in header.vectors),
        (name for name in shapes if not is_matrix(name)),
    )
    tensors: list[Matrix | Vector] = [*header.matrices, *header.vectors]
    for tensor in tensors:
        expected = codec_named(tensor.codec).exact_bytes(shapes[tensor.name])
        if expected is not None and tensor.size != expected:
            raise GeometryError(
                f"{tensor.name} has {tensor.size} bytes of {tensor.codec}, not {expected}"
            )
    return header


def _check_magic(start: bytes) -> None:
    if start == MAGIC:
        return
    if MAGIC.startswith(start):
        raise TruncatedError(f"the file ends after {len(start)} bytes")
    if start[1:4] == MAGIC[1:4]:
        raise MagicError("the file was damaged by a transfer in text mode; use binary mode")
    raise MagicError("this is not an .rbe file")


def _header_bytes(data: Bytes) -> tuple[int, bytes]:
    """Return the format version and the header, after checking both, length and checksum."""
    if len(data) < PREAMBLE.size:
        raise TruncatedError(f"the file ends after {len(data)} bytes, inside its preamble")
    _, version, header_bytes, expected = PREAMBLE.unpack(data[: PREAMBLE.size])
    if not 1 <= version <= FORMAT_VERSION:
        raise VersionError(_unknown_version("format version", version, 1, FORMAT_VERSION))
    if header_bytes > HEADER_LIMIT:
        raise HeaderError(f"a header of {header_bytes} bytes is over the limit of {HEADER_LIMIT}")
    header_end = PREAMBLE.size + header_bytes
    if len(data) < header_end:
        raise TruncatedError(f"the file ends after {len(data)} bytes, inside its header")
    encoded = bytes(data[PREAMBLE.size : header_end])
    if checksum(encoded) != expected:
        raise ChecksumError("the header is damaged: its checksum does not match")
    return version, encoded


def _decode(encoded: bytes) -> Header:
    try:
        header = msgspec.msgpack.decode(encoded, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # The message may quote bytes of the file: escape them, and limit the length.
        raise HeaderError(f"the header is malformed: {ascii(str(error))[1:-1][:200]}") from error
    # msgpack allows duplicate keys, and longer encodings than needed; this format does not.
    if encode_header(header) != encoded:
        raise HeaderError("the header is malformed: not in the canonical form")
    return header


def _check_codecs(header: Header) -> None:
    for codec, version in header.codec_versions.items():
        if codec not in CODECS:
            raise VersionError(
                f"the file has the codec {quoted(codec)}, which this rbe does not know; if a newer "
                "rbe wrote the file, upgrade rbe"
            )
        oldest, newest = codec_named(codec).oldest_version, codec_named(codec).version
        if not oldest <= version <= newest:
            raise VersionError(_unknown_version(f"codec {codec} version", version, oldest, newest))
    used = {matrix.codec for matrix in header.matrices} | {v.codec for v in header.vectors}
    if used != header.codec_versions.keys():
        raise HeaderError(
            f"the tensors use the codecs {sorted(used)}, "
            f"but the header gives versions of {sorted(header.codec_versions)}"
        )
    for matrix in header.matrices:
        if not codec_named(matrix.codec).takes_matrices:
            raise HeaderError(
                f"matrix {quoted(matrix.name)} has the codec {matrix.codec}, which takes vectors "
                "only"
            )
    for vector in header.vectors:
        if not codec_named(vector.codec).takes_vectors:
            raise HeaderError(
                f"vector {quoted(vector.name)} has the codec {vector.codec}, which takes matrices "
                "only"
            )


def _unknown_version(what: str, version: int, oldest: int, newest: int) -> str:
    """Return the sentence for a version of the format or of a codec that is too new or too old."""
    known = f"version {newest}" if oldest == newest else f"versions {oldest} to {newest}"
    if version > newest:
        found = f"a newer rbe wrote this file ({what} {version})"
        return f"{found}; this one reads {known}: upgrade rbe"
    return f"the file is too old ({what} {version}); this rbe reads {known}: compress again"


def _check_names(kind: str, names: Iterable[str], expected: Iterable[str]) -> None:
    """Check that `names` are the expected names, each once, in any order."""
    counts, wanted = Counter(names), dict.fromkeys(expected)  # an ordered set
    for name, count in counts.items():
        if count > 1:
            raise HeaderError(f"{quoted(name)} occurs {count} times among the {kind}")
        if name not in wanted:
            raise HeaderError(f"{quoted(name)} among the {kind} is not a tensor of this config")
    for name in wanted:
        if name not in counts:
            raise HeaderError(f"{quoted(name)} is missing among the {kind}")
