"""Compute the offset of every section and tensor, for writer, validator and reader alike.

All sizes are Python integers, so their sums cannot overflow.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rbe_cli.container.header import PREAMBLE, Header
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import parameter_count, stored_shapes

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register
VECTORS = "vectors"
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class PlacedSection:
    """A section, which occupies the bytes `[offset, end)` of the file, and its checksum."""

    name: str
    offset: int
    size: int
    checksum: bytes

    @property
    def end(self) -> int:
        """Return the offset of the first byte after the section."""
        return self.offset + self.size


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor, whose `size` bytes begin `start` bytes after the beginning of its section."""

    name: str
    shape: tuple[int, ...]
    codec: str
    section: str
    start: int
    size: int

    @property
    def bits_per_weight(self) -> float:
        """Return 8 x size / (number of elements)."""
        return 8 * self.size / math.prod(self.shape)


@dataclass(frozen=True)
class FileLayout:
    """The places of all sections and tensors of a file, which writer and reader share.

    Attributes:
        header_end: offset of the first byte after the header.
        sections: section by name, in order of offset.
        tensors: tensor by name, in order of the header.
        file_bytes: size of the file in bytes.
    """

    header_end: int
    sections: dict[str, PlacedSection]
    tensors: dict[str, PlacedTensor]
    file_bytes: int

    def padding(self) -> Iterator[tuple[int, PlacedSection]]:
        """Yield each section, with the offset at which the padding before it begins."""
        end = self.header_end
        for section in self.sections.values():
            yield end, section
            end = section.end


def aligned(offset: int) -> int:
    """Return the smallest multiple of `ALIGNMENT` that is at least `offset`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def section_offsets(header_end: int, sizes: Iterable[int]) -> list[int]:
    """Return the offsets of sections of these sizes, the first of which follows the header."""
    offsets, end = [], header_end
    for size in sizes:
        offsets.append(aligned(end))
        end = offsets[-1] + size
    return offsets


def place(header: Header, header_bytes: int) -> FileLayout:
    """Compute the offsets of all sections and tensors (docs/FORMAT.md, section 3).

    Args:
        header: a header whose names and codecs are known (`validate.trusted_header`).
        header_bytes: length of the encoded header in bytes.
    """
    shapes = stored_shapes(header.config)
    tensors: dict[str, PlacedTensor] = {}
    for matrix in header.matrices:
        name = matrix.name
        tensors[name] = PlacedTensor(name, shapes[name], matrix.codec, name, 0, matrix.size)
    start = 0
    for vector in header.vectors:
        name = vector.name
        tensors[name] = PlacedTensor(name, shapes[name], vector.codec, VECTORS, start, vector.size)
        start += vector.size

    spans = [(matrix.name, matrix.size, matrix.checksum) for matrix in header.matrices]
    spans.append((VECTORS, start, header.vectors_checksum))
    if header.tokenizer is not None:
        spans.append((TOKENIZER, header.tokenizer.size, header.tokenizer.checksum))
    sections: dict[str, PlacedSection] = {}
    header_end = PREAMBLE.size + header_bytes
    offsets = section_offsets(header_end, [size for _, size, _ in spans])
    for offset, (name, size, checksum) in zip(offsets, spans, strict=True):
        sections[name] = PlacedSection(name, offset, size, checksum)
    return FileLayout(header_end, sections, tensors, file_bytes=offsets[-1] + spans[-1][1])


def bits_per_weight(config: Gpt2Config, file_bytes: int, tokenizer_bytes: int) -> float:
    """Return the bits per parameter of a file, without its tokenizer section."""
    return 8 * (file_bytes - tokenizer_bytes) / parameter_count(config)
