"""Where the fields of a payload lie, by codec, as docs/FORMAT.md has them."""

import struct
from typing import NamedTuple

_LANES, _MODELS = 32, 6
_SURFACE = 8


class Field(NamedTuple):
    """Some numbers of one type that lie one after the other.

    Attributes:
        start: byte of the first.
        numbers: how many.
        form: a letter of `struct`.
    """

    start: int
    numbers: int
    form: str

    @property
    def item(self) -> int:
        """Return the bytes of a number."""
        return struct.calcsize("<" + self.form)


def fields_of(codec: str, data: bytes) -> list[Field]:
    """Return the fields of a valid payload."""
    found = _BY_CODEC[codec](data)
    return [own for own in found if own.numbers > 0]


def _ectcq(data: bytes) -> list[Field]:
    found = [Field(0, 1, "f"), Field(4, 1, "B"), Field(5, 1, "B"), Field(6, 1, "H")]
    blocks = _blocks_of_ectcq(data)
    counts = struct.unpack_from(f"<{blocks}I", data, 8)
    start = 8 + 4 * blocks
    found.append(Field(8, blocks, "I"))
    for words in counts:
        found += [Field(start, _MODELS, "h"), Field(start + 12, _LANES, "I")]
        start += 12 + 4 * _LANES
        found += [Field(start, min(words, 64), "H"), Field(start, words, "H")]
        start += 2 * words
    return found


def _blocks_of_ectcq(data: bytes) -> int:
    """Return the number of blocks with which the counts of words fill the payload."""
    for blocks in range(1, 64):
        counts = struct.unpack_from(f"<{blocks}I", data, 8)
        if 8 + blocks * (4 + 12 + 4 * _LANES) + 2 * sum(counts) == len(data):
            return blocks
    raise ValueError("this is no payload of the codec ectcq")


def _classic(data: bytes) -> list[Field]:
    blocks = _blocks_of_classic(data)
    counts = struct.unpack_from(f"<{blocks}H", data, 2 + blocks)
    found = [Field(0, 1, "H"), Field(2, blocks, "B"), Field(2 + blocks, blocks, "H")]
    found.append(Field(2 + 3 * blocks, _SURFACE * blocks, "f"))
    start = 2 + 35 * blocks
    for count in counts:
        found += [Field(start, count, "H"), Field(start + 2 * count, count, "f")]
        start += 6 * count
    return found


def _blocks_of_classic(data: bytes) -> int:
    for blocks in range(1, len(data) // 35 + 1):
        counts = struct.unpack_from(f"<{blocks}H", data, 2 + blocks)
        if 2 + 35 * blocks + 6 * sum(counts) == len(data):
            return blocks
    raise ValueError("this is no payload of the codec classic")


def _coded(data: bytes) -> list[Field]:
    fixed = [Field(0, 1, "f"), Field(4, 1, "f"), Field(8, 1, "h"), Field(10, 1, "I")]
    return [*fixed, Field(14, (len(data) - 14) // 2, "H")]


def _fixed(data: bytes) -> list[Field]:
    levels = min(len(data) - 4, 60)
    return [
        Field(0, len(data) - 4, "B"),
        Field(len(data) - 4 - levels, levels, "b"),
        Field(len(data) - 4, 1, "f"),
    ]


def _float16(data: bytes) -> list[Field]:
    return [Field(0, len(data) // 2, "e")]


def _float32(data: bytes) -> list[Field]:
    return [Field(0, len(data) // 4, "f")]


_BY_CODEC = {
    "ectcq": _ectcq,
    "classic": _classic,
    "coded": _coded,
    "fixed": _fixed,
    "float16": _float16,
    "float32": _float32,
    "scalar": _float32,
}
