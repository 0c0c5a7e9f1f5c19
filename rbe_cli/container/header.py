"""Define and encode the preamble and the header of a file (docs/FORMAT.md, sections 1, 2)."""

import struct
from typing import Annotated

import msgspec
import xxhash
from msgspec import Meta

from rbe_cli.errors import HeaderError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import ROTATION

# As in PNG: the first byte is not ASCII, and a transfer in text mode changes the line ends.
MAGIC = b"\x89RBE\r\n\x1a\n"
FORMAT_VERSION = ROTATED = 2
"""The newest version: that of files with a rotated residual stream. Others have version 1."""
PREAMBLE = struct.Struct("<8sII8s")  # magic, format version, header bytes, header checksum
HEADER_LIMIT = 16 << 20  # bytes

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=4096)]
Size = Annotated[int, Meta(ge=1)]
Checksum = Annotated[bytes, Meta(min_length=8, max_length=8)]


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A record that is stored as an array of exactly its fields, in order and without names."""


class Provenance(_Record, frozen=True):
    """The origin of a file. No field changes what the model computes.

    Attributes:
        source: what was compressed: `demo`, `org/name@revision`, or the last part of a path.
            The folders of the machine that wrote the file are left out.
        source_hash: `Checkpoint.source_hash`.
        tool_version: version of the `rbe` that wrote the file.
        preset: name of the preset, or None without one.
        calibration: a description of the calibration text or tokens.
        seed: the seed of every random choice.
        extra: further facts by name, such as the measured quality.
    """

    source: Text
    source_hash: Text
    tool_version: Text
    preset: Text | None
    calibration: Text
    seed: int
    extra: Annotated[dict[Name, Text | int | float | bool | None], Meta(max_length=256)]


class Matrix(_Record, frozen=True):
    """A tensor of two dimensions, which has its own section of `size` bytes."""

    name: Name
    codec: Name
    size: Size
    checksum: Checksum


class Vector(_Record, frozen=True):
    """A tensor of one dimension, which takes `size` bytes of the section `vectors`."""

    name: Name
    codec: Name
    size: Size


class TokenizerRecord(_Record, frozen=True):
    """The size in bytes and the checksum of the section `tokenizer`, as the header holds them."""

    size: Size
    checksum: Checksum


class Header(_Record, frozen=True):
    """Everything about a file except its payloads. `file_layout.place` computes the offsets."""

    config: Gpt2Config
    codec_versions: Annotated[dict[Name, int], Meta(max_length=64)]
    provenance: Provenance
    matrices: Annotated[list[Matrix], Meta(max_length=1 << 15)]
    vectors: Annotated[list[Vector], Meta(max_length=1 << 16)]
    vectors_checksum: Checksum
    tokenizer: TokenizerRecord | None


def checksum(data: bytes | memoryview) -> bytes:
    """Return the XXH3-64 of `data` with seed 0, as 8 big-endian bytes (the canonical form)."""
    return xxhash.xxh3_64_digest(data)


def encode_header(header: Header) -> bytes:
    """Encode the header as msgpack.

    Raises:
        HeaderError: a text in it is not valid Unicode, as may happen with a file name.
    """
    try:
        return msgspec.msgpack.encode(header)
    except UnicodeEncodeError as error:
        raise HeaderError(f"the header cannot hold the text {error.object!a}") from error


def format_version(header: Header) -> int:
    """Return the format version of the file that a header belongs to."""
    return ROTATED if any(matrix.name == ROTATION for matrix in header.matrices) else 1


def encode_preamble(version: int, encoded_header: bytes) -> bytes:
    """Return the `PREAMBLE.size` bytes that stand before the header."""
    return PREAMBLE.pack(MAGIC, version, len(encoded_header), checksum(encoded_header))
