"""Preamble and typed header of a `.rbe` file (docs/FORMAT.md, sections 1 and 2)."""

import struct
from typing import Annotated

import msgspec
import xxhash
from msgspec import Meta

from rbe_cli.errors import HeaderError
from rbe_cli.model.config import Gpt2Config

# As in PNG: the first byte is not ASCII, and the line ends do not survive a transfer as text.
MAGIC = b"\x89RBE\r\n\x1a\n"
FORMAT_VERSION = 1
PREAMBLE = struct.Struct("<8sII8s")  # magic, format version, header bytes, header checksum
HEADER_LIMIT = 16 << 20  # bytes

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]
Size = Annotated[int, Meta(ge=1)]
Checksum = Annotated[bytes, Meta(min_length=8, max_length=8)]


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An array of exactly these fields, in this order, without their names."""


class Provenance(_Record, frozen=True):
    """Where a file comes from; nothing in it changes what the model computes.

    Attributes:
        source: what was compressed: `demo`, `org/name@revision`, or the last part of a path, so
            that the file tells nothing of the folders on the machine where it was written.
        source_hash: `Checkpoint.source_hash`.
        tool_version: version of the `rbe` that wrote the file.
        preset: name of the preset; None if there was none.
        calibration: the text or tokens that were used, in words.
        seed: seed of every random choice.
        extra: anything else worth knowing, such as the measured quality.
    """

    source: Text
    source_hash: Text
    tool_version: Text
    preset: Text | None
    calibration: Text
    seed: int
    extra: Annotated[dict[Name, Text | int | float | bool | None], Meta(max_length=256)]


class Matrix(_Record, frozen=True):
    """A tensor of two dimensions, in a section of its own of `size` bytes."""

    name: Name
    codec: Name
    size: Size
    checksum: Checksum


class Vector(_Record, frozen=True):
    """A tensor of one dimension: `size` bytes of the section `vectors`."""

    name: Name
    codec: Name
    size: Size


class TokenizerRecord(_Record, frozen=True):
    """The section `tokenizer`, of `size` bytes."""

    size: Size
    checksum: Checksum


class Header(_Record, frozen=True):
    """Everything about a file but its payloads; offsets follow from it (`geometry.place`)."""

    config: Gpt2Config
    codec_versions: Annotated[dict[Name, int], Meta(max_length=64)]
    provenance: Provenance
    matrices: Annotated[list[Matrix], Meta(max_length=1 << 15)]
    vectors: Annotated[list[Vector], Meta(max_length=1 << 16)]
    vectors_checksum: Checksum
    tokenizer: TokenizerRecord | None


def checksum(data: bytes | memoryview) -> bytes:
    """XXH3-64 with seed 0, as 8 big-endian bytes (the canonical form)."""
    return xxhash.xxh3_64_digest(data)


def encode_header(header: Header) -> bytes:
    """The header as msgpack.

    Raises:
        HeaderError: a text in it is not Unicode (a file name may not be).
    """
    try:
        return msgspec.msgpack.encode(header)
    except UnicodeEncodeError as error:
        raise HeaderError(f"the header cannot hold the text {error.object!a}") from error


def encode_preamble(encoded_header: bytes) -> bytes:
    """The `PREAMBLE.size` bytes before the header."""
    return PREAMBLE.pack(MAGIC, FORMAT_VERSION, len(encoded_header), checksum(encoded_header))
