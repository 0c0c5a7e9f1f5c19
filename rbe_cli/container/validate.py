"""From untrusted bytes to a header and a layout that can be relied upon.

The checks stand in the order of docs/FORMAT.md, and each raises the error named there.
Nothing is allocated in proportion to a number in the file before that number is checked.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from rbe_cli.codec.registry import CODECS, codec_named
from rbe_cli.container.file_layout import FileLayout, place
from rbe_cli.container.header import (
    FORMAT_VERSION,
    HEADER_LIMIT,
    MAGIC,
    PREAMBLE,
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
from rbe_cli.model.tensor_names import is_matrix, tensor_shapes


def read_layout(data: memoryview) -> tuple[Header, FileLayout]:
    """Validate a whole file but for its padding and the contents of its sections.

    Args:
        data: every byte of the file.

    Raises:
        ContainerError: the subclass that docs/FORMAT.md names for the first broken rule.
    """
    _check_magic(bytes(data[: len(MAGIC)]))
    encoded = _header_bytes(data)
    header = trusted_header(encoded)
    layout = place(header, len(encoded))
    if len(data) < layout.file_bytes:
        raise TruncatedError(f"the file has {len(data)} of {layout.file_bytes} bytes")
    if len(data) > layout.file_bytes:
        raise GeometryError(f"{len(data) - layout.file_bytes} bytes follow the last section")
    return header, layout


def check_padding(data: memoryview, layout: FileLayout) -> None:
    """Raises `GeometryError` if a byte between the sections is not zero."""
    for start, section in layout.padding():
        if any(data[start : section.offset]):
            raise GeometryError(f"the padding before section {section.name!r} is not zero")


def trusted_header(encoded: bytes) -> Header:
    """Decode a header and check every rule that concerns the header alone.

    Raises:
        HeaderError: it is malformed, or contradicts itself or its config.
        VersionError: it names a codec, or a version of one, that is unknown.
        GeometryError: a tensor does not have the size that its codec and shape ask for.
    """
    header = _decode(encoded)
    try:
        header.config.validate()
    except CheckpointError as error:
        raise HeaderError(str(error)) from error
    _check_codecs(header)
    shapes = tensor_shapes(header.config)
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
        raise MagicError("the file was damaged by a transfer as text; transfer it as binary")
    raise MagicError("this is not an .rbe file")


def _header_bytes(data: memoryview) -> bytes:
    """The encoded header, once version, length and checksum are right."""
    if len(data) < PREAMBLE.size:
        raise TruncatedError(f"the file ends after {len(data)} bytes, inside its preamble")
    _, version, header_bytes, expected = PREAMBLE.unpack(data[: PREAMBLE.size])
    if version != FORMAT_VERSION:
        raise VersionError(f"format version {version}; this tool reads version {FORMAT_VERSION}")
    if header_bytes > HEADER_LIMIT:
        raise HeaderError(f"a header of {header_bytes} bytes is over the limit of {HEADER_LIMIT}")
    header_end = PREAMBLE.size + header_bytes
    if len(data) < header_end:
        raise TruncatedError(f"the file ends after {len(data)} bytes, inside its header")
    encoded = bytes(data[PREAMBLE.size : header_end])
    if checksum(encoded) != expected:
        raise ChecksumError("the header is damaged: its checksum does not match")
    return encoded


def _decode(encoded: bytes) -> Header:
    try:
        header = msgspec.msgpack.decode(encoded, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # The message may quote the file: escape it, and keep it short.
        raise HeaderError(f"the header is malformed: {ascii(str(error))[1:-1][:200]}") from error
    # msgpack allows a key twice and long forms of short things; this format does not.
    if encode_header(header) != encoded:
        raise HeaderError("the header is malformed: not in the canonical form")
    return header


def _check_codecs(header: Header) -> None:
    for codec, version in header.codec_versions.items():
        if codec not in CODECS:
            raise VersionError(f"codec {codec!r} is unknown to this tool")
        known = codec_named(codec).version
        if version != known:
            raise VersionError(f"codec {codec} version {version}; this tool reads version {known}")
    used = {matrix.codec for matrix in header.matrices} | {v.codec for v in header.vectors}
    if used != header.codec_versions.keys():
        raise HeaderError(
            f"the tensors use the codecs {sorted(used)}, "
            f"the versions given are of {sorted(header.codec_versions)}"
        )
    for matrix in header.matrices:
        if not codec_named(matrix.codec).takes_matrices:
            raise HeaderError(f"matrix {matrix.name!r} has the codec {matrix.codec} of vectors")
    for vector in header.vectors:
        if not codec_named(vector.codec).takes_vectors:
            raise HeaderError(f"vector {vector.name!r} has the codec {vector.codec} of matrices")


def _check_names(kind: str, names: Iterable[str], expected: Iterable[str]) -> None:
    """The same names, each once, in any order."""
    counts, wanted = Counter(names), dict.fromkeys(expected)  # a set that keeps its order
    for name, count in counts.items():
        if count > 1:
            raise HeaderError(f"{name!r} stands {count} times among the {kind}")
        if name not in wanted:
            raise HeaderError(f"{name!r} among the {kind} is no tensor of this config")
    for name in wanted:
        if name not in counts:
            raise HeaderError(f"{name!r} is missing among the {kind}")
