"""A second reader of `.rbe` files, written from FORMAT.md alone.

Sections and rules in the comments are those of that page.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Shape = tuple[int, ...]

MAGIC = b"\x89RBE\r\n\x1a\n"
ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")
CODEC_VERSIONS = {  # rule 2.11
    "classic": (1,), "coded": (1,), "ectcq": (1, 2), "fixed": (2,),
    "float16": (1,), "float32": (1,), "scalar": (1,),
}  # fmt: skip
MATRIX_CODECS = ("classic", "ectcq", "fixed", "float16", "float32")
VECTOR_CODECS = ("coded", "float16", "float32", "scalar")
TRANSPOSED_NAMES = ("wte.weight", "wpe.weight", "lm_head.weight")
TRANSPOSING_CODECS = ("classic", "ectcq", "fixed")
SIZE_LIMITS = {  # rule 2.6
    "vocab_size": 2**24, "n_positions": 2**20, "n_embd": 2**16,
    "n_layer": 2**12, "n_head": 2**12, "n_inner": 2**18,
}  # fmt: skip
CONFIG_KEYS = (
    *SIZE_LIMITS, "activation_function", "layer_norm_epsilon", "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx", "tie_word_embeddings", "bos_token_id", "eos_token_id",
)  # fmt: skip
LARGEST_TOKENIZER = 2**26  # rule 4.2
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

RULE_ERRORS = {
    "1.1": "TruncatedError", "1.2": "MagicError", "1.3": "TruncatedError", "1.4": "VersionError",
    "1.5": "HeaderError", "1.6": "TruncatedError", "1.7": "ChecksumError", "2.11": "VersionError",
    "2.15": "GeometryError", "3.1": "TruncatedError", "3.2": "GeometryError",
    "3.3": "GeometryError", "3.4": "ChecksumError",
}  # fmt: skip


class BrokenFileError(Exception):
    """A file breaks a rule of the page: its number, the name of its error and a sentence."""

    def __init__(self, rule: str, sentence: str) -> None:
        super().__init__(sentence)
        self.rule = rule
        other = "HeaderError" if rule.startswith("2.") else "PayloadError"
        self.error = RULE_ERRORS.get(rule, other)


def check(holds: bool | np.bool_, rule: str, sentence: str) -> None:
    """Report a rule as broken unless it holds."""
    if not holds:
        raise BrokenFileError(rule, sentence)


# ---- Section 2: the header ---------------------------------------------------------------------

# For each kind: the first byte and the largest count of the one-byte form, then the first byte,
# the width of the count and the least count of each longer form.
COUNTED_FORMS: dict[str, tuple[int, int, tuple[tuple[int, int, int], ...]]] = {
    "string": (0xA0, 31, ((0xD9, 1, 32), (0xDA, 2, 2**8), (0xDB, 4, 2**16))),
    "binary string": (0x100, 0, ((0xC4, 1, 0), (0xC5, 2, 2**8), (0xC6, 4, 2**16))),
    "array": (0x90, 15, ((0xDC, 2, 16), (0xDD, 4, 2**16))),
    "map": (0x80, 15, ((0xDE, 2, 16), (0xDF, 4, 2**16))),
}
# First byte: width, and the least value (unsigned) or the largest value (signed) of this form.
UNSIGNED_FORMS = {0xCC: (1, 2**7), 0xCD: (2, 2**8), 0xCE: (4, 2**16), 0xCF: (8, 2**32)}
SIGNED_FORMS = {
    0xD0: (1, -(2**5) - 1), 0xD1: (2, -(2**7) - 1), 0xD2: (4, -(2**15) - 1), 0xD3: (8, -(2**31) - 1)
}  # fmt: skip


@dataclass
class Tensor:
    """What the header says of one tensor, and where its payload lies."""

    name: str
    codec: str
    size: int
    shape: Shape = ()
    offset: int = 0
    section: int = 0


@dataclass
class Header:
    """The fields of the header of section 2."""

    config: dict[str, Any]
    codec_versions: dict[str, int]
    provenance: list[Any]
    tensors: list[Tensor]  # first all matrices, then all vectors
    matrix_count: int
    checksums: list[bytes]
    tokenizer_size: int


def mismatch(first: int, wanted: str) -> BrokenFileError:
    """The error of a value of another kind, or of none: some first bytes do not occur (2.1)."""
    foreign = first == 0xC1 or 0xC7 <= first <= 0xCA or 0xD4 <= first <= 0xD8
    return BrokenFileError(
        "2.1" if foreign else "2.2", f"the header has a value that is no {wanted}"
    )


class HeaderReader:
    """Reads the one msgpack value of the header as the structure that it must have.

    The first breach of 2.1 to 2.5 that comes ends the reading: all are the same error.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes (rule 2.1)."""
        check(count <= len(self.data) - self.at, "2.1", "the header ends within a value")
        self.at += count
        return self.data[self.at - count : self.at]

    def peek(self) -> int:
        """The first byte of the next value."""
        first = self.take(1)[0]
        self.at -= 1
        return first

    def count(self, kind: str) -> int:
        """The count with which a string, a binary string, an array or a map begins."""
        short, longest, forms = COUNTED_FORMS[kind]
        first = self.take(1)[0]
        if short <= first <= short + longest:
            return first - short
        for code, width, least in forms:
            if first == code:
                value = int.from_bytes(self.take(width), "big")
                check(value >= least, "2.5", "a length of the header has not its shortest form")
                return value
        raise mismatch(first, kind)

    def integer(self) -> int:
        """An integer of any width."""
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first in UNSIGNED_FORMS:
            width, bound = UNSIGNED_FORMS[first]
            value = int.from_bytes(self.take(width), "big")
            shortest = value >= bound
        elif first in SIGNED_FORMS:
            width, bound = SIGNED_FORMS[first]
            value = int.from_bytes(self.take(width), "big", signed=True)
            shortest = value <= bound
        else:
            raise mismatch(first, "integer")
        check(shortest, "2.5", "an integer of the header has not its shortest form")
        return value

    def text(self, least: int = 0, most: int = 4096) -> str:
        """A string of `least` to `most` characters (rule 2.3)."""
        raw = self.take(self.count("string"))
        try:
            value = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise BrokenFileError("2.3", "a string of the header is not UTF-8") from None
        fits = least <= len(value) <= most
        check(fits, "2.3", f"a string of the header has not {least} to {most} characters")
        return value

    def name(self) -> str:
        """A string of 1 to 256 characters."""
        return self.text(1, 256)

    def size(self) -> int:
        """The bytes of a payload or section."""
        value = self.integer()
        check(value >= 1, "2.2", "a size in the header is below 1")
        return value

    def checksum(self) -> bytes:
        """A binary string of 8 bytes."""
        check(self.count("binary string") == 8, "2.2", "a checksum has not 8 bytes")
        return self.take(8)

    def activation(self) -> str:
        """One of six texts."""
        value = self.text()
        check(value in ACTIVATIONS, "2.2", "the activation function is none of the six")
        return value

    def other(self, *kinds: str) -> Any:
        """A value of one of some kinds: "nil", "boolean", "float", "text", "array", "integer"."""
        first = self.peek()
        kind = {0xC0: "nil", 0xC2: "boolean", 0xC3: "boolean", 0xCB: "float"}.get(first, "integer")
        if 0xA0 <= first < 0xC0 or 0xD9 <= first <= 0xDB:
            kind = "text"
        elif 0x90 <= first < 0xA0 or first in (0xDC, 0xDD):
            kind = "array"
        if kind not in kinds:
            raise mismatch(first, " or ".join(kinds))
        if kind == "text":
            return self.text()
        if kind == "integer":
            return self.integer()
        if kind == "array":
            most = SIZE_LIMITS["vocab_size"]  # more ids than this are not all different
            return [self.integer() for _ in range(self.limited_count("array", most, "2.10"))]
        self.at += 1
        if kind == "float":
            return struct.unpack(">d", self.take(8))[0]
        return None if kind == "nil" else first == 0xC3

    def limited_count(self, kind: str, most: int, rule: str = "2.4") -> int:
        """The count of an array or map that has at most `most` entries."""
        value = self.count(kind)
        check(value <= most, rule, f"the header has {value} entries where {most} are the limit")
        return value

    def fields(self, *readers: Callable[[], Any]) -> list[Any]:
        """An array of exactly these fields."""
        count = len(readers)
        check(self.count("array") == count, "2.2", f"an array has not {count} fields")
        return [read() for read in readers]

    def named_values(self, most: int, *kinds: str) -> dict[str, Any]:
        """A map of at most `most` names to values, each key once (rule 2.5)."""
        values: dict[str, Any] = {}
        for _ in range(self.limited_count("map", most)):
            key = self.name()
            check(key not in values, "2.5", "a map of the header has a key twice")
            values[key] = self.other(*kinds)
        return values

    def config(self) -> dict[str, Any]:
        """The map of the config."""
        readers: dict[str, Callable[[], Any]] = {
            "activation_function": self.activation,
            "layer_norm_epsilon": partial(self.other, "float"),
            "scale_attn_weights": partial(self.other, "boolean"),
            "scale_attn_by_inverse_layer_idx": partial(self.other, "boolean"),
            "tie_word_embeddings": partial(self.other, "boolean"),
            "bos_token_id": partial(self.other, "nil", "integer"),
            "eos_token_id": partial(self.other, "nil", "array", "integer"),
        }
        count = len(CONFIG_KEYS)
        check(self.count("map") == count, "2.2", f"the config has not {count} keys")
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self.text()
            known = key in CONFIG_KEYS and key not in values
            check(known, "2.2", "the config has a key that is unknown or comes twice")
            values[key] = readers.get(key, self.integer)()
        check(tuple(values) == CONFIG_KEYS, "2.5", "the keys of the config are not in order")
        return values

    def provenance(self) -> list[Any]:
        """The array of the provenance."""
        text, kinds = self.text, ("nil", "boolean", "integer", "float", "text")
        preset, extra = partial(self.other, "nil", "text"), partial(self.named_values, 256, *kinds)
        return self.fields(text, text, text, preset, text, self.integer, extra)

    def tensors(self, most: int, *more: Callable[[], Any]) -> list[list[Any]]:
        """The array of the matrices or that of the vectors."""
        readers = (self.name, self.name, self.size, *more)
        return [self.fields(*readers) for _ in range(self.limited_count("array", most))]

    def tokenizer(self) -> list[Any] | None:
        """Nil, or size and checksum of the tokenizer."""
        return self.fields(self.size, self.checksum) if self.peek() != 0xC0 else self.other("nil")

    def header(self) -> Header:
        """The whole header (rules 2.1 to 2.5)."""
        config, versions, provenance, matrices, vectors, checksum, tokenizer = self.fields(
            self.config,
            partial(self.named_values, 64, "integer"),
            self.provenance,
            partial(self.tensors, 2**15, self.checksum),
            partial(self.tensors, 2**16),
            self.checksum,
            self.tokenizer,
        )
        check(self.at == len(self.data), "2.1", "bytes follow the value of the header")
        tensors = [Tensor(*row[:3]) for row in matrices + vectors]
        checksums = [row[3] for row in matrices] + [checksum]
        if tokenizer:
            checksums.append(tokenizer[1])
        size = tokenizer[0] if tokenizer else 0
        return Header(config, versions, provenance, tensors, len(matrices), checksums, size)


def check_config(config: dict[str, Any]) -> None:
    """Rules 2.6 to 2.10."""
    for key, limit in SIZE_LIMITS.items():
        check(1 <= config[key] <= limit, "2.6", f"{key} is not from 1 to {limit}")
    check(config["n_embd"] % config["n_head"] == 0, "2.7", "n_head does not divide n_embd")
    epsilon_fits = 0 <= config["layer_norm_epsilon"] < 1
    check(epsilon_fits, "2.8", "layer_norm_epsilon is not from 0 to below 1")
    ids = config["eos_token_id"]
    listed = ids if isinstance(ids, list) else [ids]
    for token in (config["bos_token_id"], *listed):
        check(token is None or 0 <= token < config["vocab_size"], "2.9", "a token id is too large")
    if isinstance(ids, list):
        check(len(set(ids)) == len(ids) >= 2, "2.10", "eos_token_id has an id twice, or below two")


def tensor_shapes(config: dict[str, Any], version: int) -> dict[str, Shape]:
    """The names of the tensors and their shapes."""
    vocabulary, width, inner = config["vocab_size"], config["n_embd"], config["n_inner"]
    shapes: dict[str, Shape] = {
        "wte.weight": (vocabulary, width),
        "wpe.weight": (config["n_positions"], width),
    }
    layer: dict[str, Shape] = {
        "ln_1.weight": (width,), "ln_1.bias": (width,),
        "attn.c_attn.weight": (width, 3 * width), "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width), "attn.c_proj.bias": (width,),
        "ln_2.weight": (width,), "ln_2.bias": (width,),
        "mlp.c_fc.weight": (width, inner), "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, width), "mlp.c_proj.bias": (width,),
    }  # fmt: skip
    for i in range(config["n_layer"]):
        shapes.update({f"h.{i}.{name}": shape for name, shape in layer.items()})
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, width)
    if version == 2:
        shapes["rotation.weight"] = (width, width // 2)
    return shapes


def check_tensors(header: Header, format_version: int) -> None:
    """Rules 2.11 to 2.15. Gives the tensors their shapes."""
    for codec, version in header.codec_versions.items():
        known = version in CODEC_VERSIONS.get(codec, ())
        check(known, "2.11", f"codec {codec[:40]!r} of version {version} is unknown to this reader")
    used = {tensor.codec for tensor in header.tensors}
    check(used == set(header.codec_versions), "2.12", "codec_versions are not the codecs in use")
    matrices, vectors = header.tensors[: header.matrix_count], header.tensors[header.matrix_count :]
    for group, codecs in ((matrices, MATRIX_CODECS), (vectors, VECTOR_CODECS)):
        fits = all(tensor.codec in codecs for tensor in group)
        check(fits, "2.13", "a codec does not take tensors of this kind")
    config, names = header.config, "the names of the tensors are not those of this config"
    matrix_count = (
        2 + 4 * config["n_layer"] + (not config["tie_word_embeddings"]) + (format_version == 2)
    )
    vector_count = 2 + 8 * config["n_layer"]
    check((len(matrices), len(vectors)) == (matrix_count, vector_count), "2.14", names)
    shapes = tensor_shapes(config, format_version)
    for group, axes in ((matrices, 2), (vectors, 1)):
        wanted = {name for name, shape in shapes.items() if len(shape) == axes}
        check({tensor.name for tensor in group} == wanted, "2.14", names)
    check(format_version == 1 or config["n_embd"] >= 2, "2.14", "one dimension cannot be rotated")
    for tensor in header.tensors:
        tensor.shape = shapes[tensor.name]
        count = math.prod(tensor.shape)
        sizes = {"float16": 2 * count, "float32": 4 * count, "scalar": 4}
        fits = sizes.get(tensor.codec, tensor.size) == tensor.size
        check(fits, "2.15", f"{tensor.name} has not the bytes of its shape")


# ---- Sections 1, 3 and 4: the file -------------------------------------------------------------


@dataclass
class SecondFile:
    """An opened file: its header is checked, its sections are read on demand."""

    config: dict[str, Any]
    codec_versions: dict[str, int]
    provenance: list[Any]
    names: list[str]
    shapes: dict[str, Shape]
    _data: bytes = field(repr=False)
    _tensors: dict[str, Tensor] = field(repr=False)
    _sections: list[tuple[int, int, bytes]] = field(repr=False)
    _has_tokenizer: bool = field(repr=False)
    _header_end: int = field(repr=False)
    _intact: set[int] = field(default_factory=set, repr=False)

    def _section(self, index: int) -> tuple[int, int]:
        """Begin and end of a section whose checksum is right (rule 3.4)."""
        begin, end, checksum = self._sections[index]
        if index not in self._intact:
            actual = xxhash.xxh3_64_digest(memoryview(self._data)[begin:end])
            check(actual == checksum, "3.4", f"section {index} has another checksum than declared")
            self._intact.add(index)
        return begin, end

    def tensor(self, name: str) -> Floats:
        """The values of a tensor in the shape of the table of names."""
        tensor = self._tensors[name]
        self._section(tensor.section)
        payload = self._data[tensor.offset : tensor.offset + tensor.size]
        with np.errstate(all="ignore"):
            if name in TRANSPOSED_NAMES and tensor.codec in TRANSPOSING_CODECS:
                values = DECODERS[tensor.codec](payload, tensor.shape[::-1]).T
            else:
                values = DECODERS[tensor.codec](payload, tensor.shape)
        return np.ascontiguousarray(values)

    def tokenizer_json(self) -> bytes | None:
        """The decompressed tokenizer (section 4)."""
        if not self._has_tokenizer:
            return None
        begin, end = self._section(len(self._sections) - 1)
        stream = zlib.decompressobj()
        try:
            text = stream.decompress(self._data[begin:end], LARGEST_TOKENIZER + 1)
        except zlib.error:
            raise BrokenFileError("4.1", "the tokenizer is not a zlib stream") from None
        check(len(text) <= LARGEST_TOKENIZER, "4.2", "the tokenizer is larger than 64 MiB")
        whole = stream.eof and not stream.unused_data
        check(whole, "4.1", "the tokenizer is not exactly one whole zlib stream")
        return text

    def verify(self) -> None:
        """The bytes between the sections (rule 3.3) and all checksums (rule 3.4)."""
        end_before = self._header_end
        for begin, end, _ in self._sections:
            gap = self._data[end_before:begin]
            check(not any(gap), "3.3", "the bytes between two sections are not zero")
            end_before = end
        for index in range(len(self._sections)):
            self._section(index)


def check_preamble(data: bytes) -> tuple[int, int]:
    """Section 1. The format version, and the end of the header."""
    begins = MAGIC.startswith(data[:8])
    check(len(data) >= 8 or not begins, "1.1", "the file ends within its magic")
    check(begins, "1.2", "the file does not begin with the magic of an .rbe file")
    check(len(data) >= 24, "1.3", "the file ends within its preamble")
    version, header_size = struct.unpack_from("<II", data, 8)
    check(version in (1, 2), "1.4", f"this reader does not know format version {version}")
    check(header_size <= 2**24, "1.5", "the header is larger than 16 MiB")
    end = 24 + int(header_size)
    check(len(data) >= end, "1.6", "the file ends within its header")
    actual = xxhash.xxh3_64_digest(memoryview(data)[24:end])
    check(actual == data[16:24], "1.7", "the header has another checksum than declared")
    return int(version), end


def read_file(data: bytes) -> SecondFile:
    """Check preamble, header and the places of the sections (sections 1 and 2, 3.1 and 3.2)."""
    version, header_end = check_preamble(data)
    header = HeaderReader(data[24:header_end]).header()
    check_config(header.config)
    check_tensors(header, version)
    sizes = [tensor.size for tensor in header.tensors]
    count = header.matrix_count
    sizes[count:] = [sum(sizes[count:])]
    if header.tokenizer_size:
        sizes.append(header.tokenizer_size)
    sections, end = [], header_end
    for size, checksum in zip(sizes, header.checksums, strict=True):
        begin = -(-end // 64) * 64
        end = begin + size
        sections.append((begin, end, checksum))
    check(len(data) >= end, "3.1", "the file ends before its last section does")
    check(len(data) == end, "3.2", "the file does not end where its last section ends")
    place = sections[count][0]
    for index, tensor in enumerate(header.tensors):
        tensor.section = min(index, count)
        tensor.offset = sections[index][0] if index < count else place
        place += tensor.size if index >= count else 0
    tensors = {tensor.name: tensor for tensor in header.tensors}
    return SecondFile(
        config=header.config,
        codec_versions=header.codec_versions,
        provenance=header.provenance,
        names=list(tensors),
        shapes={name: tensor.shape for name, tensor in tensors.items()},
        _data=data,
        _tensors=tensors,
        _sections=sections,
        _has_tokenizer=header.tokenizer_size > 0,
        _header_end=header_end,
    )


# ---- Sections 5, 7 and 8: powers, entropy model and rANS ---------------------------------------


def power(exponents: Integers, resolution: int) -> Floats:
    """Power(e, R) of section 5: 2^(e / R) rounded to float32."""
    fractions = np.array([2.0 ** (i / resolution) for i in range(resolution)])
    whole = (exponents // resolution).astype(np.int32)
    powers: Doubles = np.ldexp(fractions[exponents % resolution], whole)
    return powers.astype(np.float32)


def shift_of(level: int) -> int:
    """The shift s of a level."""
    return max(0, math.ceil(level / 8 - 3.5))


@cache
def frequencies(level: int, offset: int) -> Integers:
    """The table of section 7 for a clipped level t and an offset z."""
    sigma, shift = 2.0 ** (level / 8), shift_of(level)
    narrow, wide = sigma * math.sqrt(2), 1.8 * sigma * math.sqrt(2)
    edges = [(i - 32) * 2 ** (shift + 1) + offset - 1 for i in range(64)]
    sums = [0.485 * math.erf(x / narrow) + 0.015 * math.erf(x / wide) for x in edges]
    counts = [round(4096 * (after - before)) for before, after in pairwise(sums)] + [1]
    counts[counts.index(max(counts))] += 4096 - sum(counts)
    return np.array(counts, np.int64)


@cache
def all_tables() -> tuple[Integers, Integers]:
    """All tables in the form that the lanes use.

    The first array has for each of the 240 tables and each slot the number `64 table + symbol`.
    The second has for this number: frequency, sum of the frequencies before, the integer of the
    symbol when its low bits are 0, how many low bits follow, their mask, and the limit below
    which a state needs a word once they are gone (0 where none follow).
    """
    tables = np.array([frequencies(t, z) for t in range(-24, 96) for z in (0, 1)])
    shifts = np.repeat([shift_of(t) for t in range(-24, 96)], 2)[:, None]
    sums = np.cumsum(tables, axis=1) - tables
    integers = (np.arange(64) - 32) << shifts
    bits = np.repeat(shifts, 64, axis=1)
    integers[:, 63], bits[:, 63] = -(2**15), 16
    masks = (1 << bits) - 1
    limits = np.where(bits > 0, 2**16 << bits, 0)
    symbols = np.repeat(np.arange(240 * 64), tables.ravel())
    return symbols, np.stack([tables, sums, integers, bits, masks, limits]).reshape(6, -1)


class Lanes:
    """The 32 lanes of a block of `ectcq` and their stream of words (section 8)."""

    def __init__(self, states: npt.NDArray[np.uint32], words: npt.NDArray[np.uint16]) -> None:
        self.states = states.astype(np.int64)
        self.words = np.concatenate([words.astype(np.int64), np.zeros(64, np.int64)])
        self.count = len(words)
        self.at = 0
        self.symbols, self.parameters = all_tables()

    def decode(self, tables: Integers) -> Integers:
        """One integer in each of the first lanes; `tables` are 4096 times the tables' numbers.

        Whether a lane needs a word does not depend on the words themselves, so the places of all
        words are known at once. A lane's first word comes before its second, and both before
        those of the next lane.
        """
        lanes = len(tables)
        states = self.states[:lanes]
        slots = states & 4095
        found = self.parameters.take(self.symbols.take(tables + slots), axis=1)
        frequency, before, integers, bits, masks, limits = found
        states = frequency * (states >> 12) + slots - before
        first = (states < 2**16).astype(np.int64)
        states <<= first << 4
        second = (states < limits).astype(np.int64)
        needed = first + second
        ends = needed.cumsum()
        words = self.words[self.at : self.at + 64]
        self.at += int(ends[-1])
        check(self.at <= self.count, "8.1", "the words of a block end too early")
        states += first * words.take(ends - needed, mode="clip")
        integers += states & masks
        states >>= bits
        states <<= second << 4
        states += second * words.take(ends - 1, mode="clip")
        self.states[:lanes] = states
        return np.asarray(integers)

    def run(self, count: int, level: int) -> Integers:
        """A run of integers with one level and z = 0."""
        tables = np.full(32, table_place(level))
        parts = [self.decode(tables[: count - i]) for i in range(0, count, 32)]
        return np.concatenate(parts)

    def finish(self) -> None:
        """Rules 8.2 and 8.3."""
        check(self.at == self.count, "8.2", "words of a block are left")
        check((self.states == 2**16).all(), "8.3", "a lane of a block does not end in state 2^16")


def table_place(level: int) -> int:
    """4096 times the number of the table of a level with z = 0."""
    return (min(max(level, -24), 95) + 24) * 2 * 4096


def decode_one_lane(state: int, words: list[int], count: int, level: int) -> list[int]:
    """A run of `count` integers in one lane (section 8), and rules 8.1 to 8.3."""
    level = min(max(level, -24), 95)
    shift, counts = shift_of(level), frequencies(level, 0)
    symbols = np.repeat(np.arange(64), counts).tolist()
    table, before = counts.tolist(), (np.cumsum(counts) - counts).tolist()
    words = words[::-1]
    integers = []
    try:
        for _ in range(count):
            slot = state & 4095
            symbol = symbols[slot]
            state = table[symbol] * (state >> 12) + slot - before[symbol]
            if state < 2**16:
                state = (state << 16) + words.pop()
            bits, integer = (16, -(2**15)) if symbol == 63 else (shift, (symbol - 32) << shift)
            integers.append(integer + (state & ((1 << bits) - 1)))
            state >>= bits
            if bits and state < 2**16:
                state = (state << 16) + words.pop()
    except IndexError:
        raise BrokenFileError("8.1", "the words of a vector end too early") from None
    check(not words, "8.2", "words of a vector are left")
    check(state == 2**16, "8.3", "the lane of a vector does not end in state 2^16")
    return integers


# ---- Section 9: classic ------------------------------------------------------------------------


@lru_cache(maxsize=8)
def surface_basis(rows: int, columns: int) -> Doubles:
    """The eight terms of a surface, `[8, rows, columns]`."""
    x = np.linspace(-1, 1, columns) if columns > 1 else np.zeros(1)
    y = (np.linspace(-1, 1, rows) if rows > 1 else np.zeros(1))[:, None]
    flat = np.zeros((rows, columns))
    terms = [
        flat + 1, np.sqrt(x * x + y * y), x * x + y * y,
        flat + np.cos(np.pi * x), flat + np.cos(np.pi * y),
        flat + np.cos(2 * np.pi * x), flat + np.cos(2 * np.pi * y),
        np.cos(np.pi * x) * np.cos(np.pi * y),
    ]  # fmt: skip
    return np.stack(terms)


@lru_cache(maxsize=8)
def dct_waves(length: int) -> Doubles:
    """The matrix of the inverse DCT-II; the angles are first reduced to one turn."""
    turns = np.outer(2 * np.arange(length) + 1, np.arange(length)) % (4 * length)
    waves = np.cos(turns * (np.pi / (2 * length))) * math.sqrt(2 / length)
    waves[:, 0] = math.sqrt(1 / length)
    return np.asarray(waves)


def inverse_dct(signal: Doubles) -> Doubles:
    """The inverse DCT-II down each column."""
    return np.asarray(dct_waves(len(signal)) @ signal)


def join_haar(low: Doubles, high: Doubles) -> Doubles:
    """The inverse of a split of Haar."""
    half = len(high)
    signal = np.empty((half + len(low), low.shape[1]))
    signal[0 : 2 * half : 2] = (low[:half] + high) / math.sqrt(2)
    signal[1 : 2 * half : 2] = (low[:half] - high) / math.sqrt(2)
    signal[2 * half :] = low[half:]
    return signal


def join_cdf(low: Doubles, high: Doubles) -> Doubles:
    """The inverse of a split of CDF 9/7."""
    low, high = low / 1.149604398860241, high * 1.149604398860241
    lows, highs = np.arange(len(low)), np.arange(len(high))
    before, here = np.maximum(lows - 1, 0), np.minimum(lows, len(high) - 1)
    after = np.minimum(highs + 1, len(low) - 1)
    rounds = ((0.882911075530934, 0.443506852043971), (-1.586134342059924, -0.052980118572961))
    for p, u in rounds:
        low = low - u * (high[before] + high[here])
        high = high - p * (low[highs] + low[after])
    signal = np.empty((len(low) + len(high), low.shape[1]))
    signal[0::2], signal[1::2] = low, high
    return signal


def inverse_wavelet(
    signal: Doubles, shortest: int, join: Callable[[Doubles, Doubles], Doubles]
) -> Doubles:
    """The inverse of splits of a signal down each column, from the coarsest to the finest."""
    lengths = [len(signal)]
    while lengths[-1] >= shortest:
        lengths.append((lengths[-1] + 1) // 2)
    low = signal[: lengths[-1]]
    for length in lengths[-2::-1]:
        low = join(low, signal[len(low) : length])
    return low


INVERSES: tuple[Callable[[Doubles], Doubles], ...] = (
    inverse_dct,
    lambda signal: inverse_wavelet(signal, 2, join_haar),
    lambda signal: inverse_wavelet(signal, 8, join_cdf),
)


def decode_classic(payload: bytes, shape: Shape) -> Floats:
    """Section 9."""
    check(len(payload) >= 2, "9.1", "a payload of classic is shorter than 2 bytes")
    side = int.from_bytes(payload[:2], "little")
    check(16 <= side <= 256, "9.2", "the blocks of classic are not 16 to 256 wide")
    corners = [(-(-shape[0] // side)), (-(-shape[1] // side))]
    blocks = corners[0] * corners[1]
    check(len(payload) >= 2 + 35 * blocks, "9.3", "a payload of classic is too short")
    transforms = payload[2 : 2 + blocks]
    counts = np.frombuffer(payload, "<u2", blocks, 2 + blocks).astype(np.int64)
    factors = np.frombuffer(payload, "<f4", 8 * blocks, 2 + 3 * blocks).reshape(blocks, 8)
    size = 2 + 35 * blocks + 6 * int(counts.sum())
    check(len(payload) == size, "9.3", "a payload of classic has not the bytes of its counts")
    check(max(transforms) <= 2, "9.4", "a transform of classic is not 0, 1 or 2")
    check(np.isfinite(factors).all(), "9.6", "a factor of classic is not finite")
    weights = np.empty(shape, np.float32)
    at = 2 + 35 * blocks
    for index in range(blocks):
        row, column = index // corners[1] * side, index % corners[1] * side
        target = weights[row : row + side, column : column + side]
        count = int(counts[index])
        places = np.frombuffer(payload, "<u2", count, at).astype(np.int64)
        values = np.frombuffer(payload, "<f4", count, at + 2 * count)
        at += 6 * count
        ascending = (np.diff(places) > 0).all() and (count == 0 or places[-1] < target.size)
        check(ascending, "9.5", "the places of classic do not ascend within their block")
        check(np.isfinite(values).all(), "9.6", "a coefficient of classic is not finite")
        block = np.tensordot(factors[index].astype(np.float64), surface_basis(*target.shape), 1)
        if count:
            grid = np.zeros(target.size)
            grid[places] = values
            inverse = INVERSES[transforms[index]]
            block += inverse(inverse(grid.reshape(target.shape)).T).T
        target[...] = np.clip(block, -LARGEST_FLOAT32, LARGEST_FLOAT32)
    return weights


# ---- Sections 6 and 11: ectcq ------------------------------------------------------------------

TRELLISES = {8: (11, 4), 16: (19, 4), 32: (37, 8), 64: (67, 20)}  # S: h0 and h1


def sorted_order(levels: Integers) -> Integers:
    """The order of the columns along the trellis by their levels."""
    ranked = np.argsort(levels, kind="stable")
    return np.concatenate([np.sort(ranked[i : i + 32]) for i in range(0, len(ranked), 32)])


def strided_order(width: int) -> Integers:
    """The order of the columns along the trellis by the stride."""
    stride = -(-width // 32)
    return np.concatenate([np.arange(first, width, stride) for first in range(stride)])


def wrap(values: Integers) -> Integers:
    """Values reduced to int16."""
    return values.astype(np.int16).astype(np.int64)


def decode_integers(
    lanes: Lanes, rows: Integers, columns: Integers, states: int
) -> npt.NDArray[np.int16]:
    """The integers n of the weights, `[columns along the trellis, rows]`, from their levels."""
    h0, h1 = TRELLISES[states]
    offsets = np.array([(2 * r & h1).bit_count() & 1 for r in range(states)])
    bits = [(2 * r & h0).bit_count() & 1 for r in range(states)]
    following = np.array([(2 * r + (q ^ bits[r])) % states for r in range(states) for q in (0, 1)])
    integers = np.empty((len(columns), len(rows)), np.int16)
    for top in range(0, len(rows), 32):
        levels = np.clip(columns[:, None] + rows[top : top + 32], -24, 95)
        tables = (levels + 24) * 8192
        trellis = np.zeros(tables.shape[1], np.int64)
        for j, row in enumerate(tables):
            z = offsets.take(trellis)
            q = lanes.decode(row + (z << 12))
            integers[j, top : top + 32] = (2 * q + z).astype(np.int16)
            trellis = following.take(2 * trellis + (q & 1))
    return integers


class ColumnScale(NamedTuple):
    """What the steps of all columns of a matrix share: the step, and the resolution R."""

    step: np.float32
    resolution: int

    def steps(self, levels: Integers) -> Floats:
        """The steps of columns (rule 11.8)."""
        steps = self.step * power(levels, self.resolution)
        check(np.isfinite(steps * np.float32(32768)).all(), "11.8", "a step of ectcq is too large")
        return np.asarray(steps)


def decode_ectcq_block(
    block: bytes, shape: tuple[int, int], states: int, is_sorted: bool, scale: ColumnScale
) -> Floats:
    """The weights of a block from its means and levels, states of lanes and words."""
    rows, columns = shape
    means = np.frombuffer(block, "<i2", 6).tolist()
    lanes = Lanes(np.frombuffer(block, "<u4", 32, 12), np.frombuffer(block, "<u2", offset=140))
    row_levels = wrap(lanes.run(rows, means[1]) + means[0])
    column_levels = wrap(lanes.run(columns, means[3]) + means[2])
    step_levels = wrap(lanes.run(columns, means[5]) + means[4])
    if is_sorted:
        order = sorted_order(column_levels)
        column_levels, step_levels = column_levels[order], step_levels[order]
    else:
        order = strided_order(columns)
    steps = scale.steps(step_levels)  # from here on all is in the order along the trellis
    integers = decode_integers(lanes, row_levels, column_levels, states)
    lanes.finish()
    weights = np.empty(shape, np.float32)
    weights[:, order] = integers.T * steps
    return weights


def decode_ectcq(payload: bytes, shape: Shape) -> Floats:
    """Section 11; version 1 is decoded by the rules of version 2."""
    rows, columns = shape
    blocks = -(-columns // 1024)
    check(len(payload) >= 8 + 4 * blocks, "11.1", "a payload of ectcq is too short")
    unit, states, order, resolution = struct.unpack_from("<fBBH", payload)
    check(0 < unit < math.inf, "11.2", "the step of ectcq is not finite and above 0")
    check(states in TRELLISES, "11.3", "the trellis of ectcq has not 8, 16, 32 or 64 states")
    check(order in (0, 1), "11.4", "the order of ectcq is not 0 or 1")
    check(resolution in (0, 32), "11.5", "the resolution of ectcq is not 0 or 32")
    counts = np.frombuffer(payload, "<u4", blocks, 8).astype(np.int64).tolist()
    size = 8 + 144 * blocks + 2 * sum(counts)
    check(len(payload) == size, "11.6", "a payload of ectcq has not the bytes of its counts")
    edges = [b * columns // blocks for b in range(blocks + 1)]
    widths = [end - begin for begin, end in pairwise(edges)]
    for count, width in zip(counts, widths, strict=True):
        fits = rows * width + rows + 2 * width <= 2**16 * (count + 32)
        check(fits, "11.7", "a block of ectcq has more integers than its words can hold")
    scale = ColumnScale(np.float32(unit), resolution or 8)
    parts, at = [], 8 + 4 * blocks
    for count, width in zip(counts, widths, strict=True):
        block = payload[at : at + 140 + 2 * count]
        at += len(block)
        parts.append(decode_ectcq_block(block, (rows, width), states, order == 1, scale))
    return np.concatenate(parts, axis=1)


# ---- Sections 10 and 12 to 15: the other codecs ------------------------------------------------


def decode_coded(payload: bytes, shape: Shape) -> Floats:
    """Section 10."""
    fits = len(payload) >= 14 and len(payload) % 2 == 0
    check(fits, "10.1", "a payload of coded is too short or has an odd number of bytes")
    offset, step, level, state = struct.unpack_from("<ffhI", payload)
    check(math.isfinite(offset), "10.2", "the offset of coded is not finite")
    check(0 < step < math.inf, "10.3", "the step of coded is not finite and above 0")
    words = np.frombuffer(payload, "<u2", offset=14).tolist()
    integers = decode_one_lane(state, words, shape[0], level)
    exact: Doubles = offset + step * np.array(integers, np.float64)
    values = exact.astype(np.float32)
    check(np.isfinite(values).all(), "10.4", "a value of coded is not finite")
    return values


FIXED_LEVELS = {  # bits: the level of each code
    2: np.arange(4, dtype=np.float32) - np.float32(1.5),
    4: np.array(
        [-9.375, -7.125, -5.5, -4.5, -3.5, -2.5, -1.5, -0.5,
         0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 7.125, 9.375], np.float32
    ),
    8: np.arange(256, dtype=np.float32) - np.float32(128),
}  # fmt: skip


def decode_fixed(payload: bytes, shape: Shape) -> Floats:
    """Section 12."""
    rows, columns = shape
    panels, tiles = -(-columns // 16), -(-rows // 32)
    code_bytes, rest = len(payload) - rows - columns - 4, 64 * panels * tiles
    fits = [bits for bits in FIXED_LEVELS if bits * rest == code_bytes]
    check(bool(fits), "12.1", "a payload of fixed has not the bytes of 2, 4 or 8 bits a weight")
    bits = fits[0]
    exponents = np.frombuffer(payload, np.int8, rows + columns, code_bytes).astype(np.int64)
    unit = np.frombuffer(payload, "<f4", 1, len(payload) - 4)[0]
    check(np.isfinite(unit) and unit > 0, "12.2", "the unit of fixed is not finite and above 0")
    row_steps = power(exponents[:rows], 8)
    column_steps = unit * power(exponents[rows:], 8)
    levels = FIXED_LEVELS[bits]
    bound = np.abs(levels).max() * row_steps.max() * column_steps.max()
    check(np.isfinite(bound), "12.3", "a weight of fixed may not be finite")
    vectors = np.frombuffer(payload, np.uint8, code_bytes).reshape(panels, tiles, bits, 16, 4)
    weights = np.empty((tiles, 8, 4, panels, 16), np.float32)
    for u in range(8):
        codes = vectors[:, :, u * bits // 8] >> (u * bits % 8) & (2**bits - 1)
        weights[:, u] = levels[codes].transpose(1, 3, 0, 2)
    values = weights.reshape(32 * tiles, 16 * panels)[:rows, :columns]
    return np.asarray(values * row_steps[:, None] * column_steps)


def decode_plain(payload: bytes, shape: Shape, kind: str, rule: str) -> Floats:
    """Sections 13 to 15: values as they are, or one for all."""
    stored = np.frombuffer(payload, kind).astype(np.float32)
    check(np.isfinite(stored).all(), rule, "a value is not finite")
    return np.full(shape, stored[0]) if rule == "15.1" else np.reshape(stored, shape)


DECODERS: dict[str, Callable[[bytes, Shape], Floats]] = {
    "classic": decode_classic,
    "coded": decode_coded,
    "ectcq": decode_ectcq,
    "fixed": decode_fixed,
    "float16": lambda payload, shape: decode_plain(payload, shape, "<f2", "13.1"),
    "float32": lambda payload, shape: decode_plain(payload, shape, "<f4", "14.1"),
    "scalar": lambda payload, shape: decode_plain(payload, shape, "<f4", "15.1"),
}


# ---- Section 16: the model ---------------------------------------------------------------------


def activation(kind: str, u: Doubles) -> Doubles:
    """The activation function of each value."""
    if kind == "relu":
        return np.maximum(u, 0)
    if kind == "silu":
        return np.asarray(u / (1 + np.exp(-u)))
    if kind == "quick_gelu":
        return np.asarray(u / (1 + np.exp(-1.702 * u)))
    if kind == "gelu":
        erf = np.array([math.erf(v) for v in (u / math.sqrt(2)).ravel()]).reshape(u.shape)
        return np.asarray(0.5 * u * (1 + erf))
    return np.asarray(0.5 * u * (1 + np.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))))


def rotation(coded: Doubles) -> Doubles:
    """Q of section 16, `[d, d]`."""
    width, half = coded.shape
    product = np.eye(width)
    for j in range(width - 1):
        v = np.zeros(width)
        for i in range(j, width - 1):
            v[i] = coded[i - j, j] if j < half else coded[width - 1 - (i - j), width - 2 - j]
        if v.any():
            product = product @ (np.eye(width) - 2 * np.outer(v, v) / (v @ v))
    w = np.full(width, 1 / math.sqrt(width))
    w[-1] -= 1
    h = np.eye(width) - 2 * np.outer(w, w) / (w @ w)
    return np.asarray(h @ product @ h)


class Model:
    """The forward pass in float64."""

    def __init__(self, file: SecondFile) -> None:
        self.config = file.config
        self.weights = {name: file.tensor(name).astype(np.float64) for name in file.names}

    def norm(self, x: Doubles, name: str) -> Doubles:
        """LayerNorm of each row."""
        centred = x - x.mean(axis=1, keepdims=True)
        variance = (centred * centred).mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt(variance + self.config["layer_norm_epsilon"])
        return np.asarray(scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"])

    def product(self, x: Doubles, name: str) -> Doubles:
        """`x · weight + bias`."""
        return np.asarray(x @ self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"])

    def attention(self, x: Doubles, layer: int) -> Doubles:
        """All heads of a layer, beside each other."""
        count, (length, width) = self.config["n_head"], x.shape
        joined = self.product(x, f"h.{layer}.attn.c_attn")
        split = joined.reshape(length, 3, count, width // count)
        q, k, v = split.transpose(1, 2, 0, 3)
        factor = 1.0
        if self.config["scale_attn_weights"]:
            factor /= math.sqrt(width // count)
        if self.config["scale_attn_by_inverse_layer_idx"]:
            factor /= layer + 1
        scores = factor * (q @ k.transpose(0, 2, 1))
        scores[:, ~np.tri(length, dtype=bool)] = -np.inf
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        heads = scores / scores.sum(axis=2, keepdims=True) @ v
        return np.asarray(heads.transpose(1, 0, 2).reshape(length, width))

    def last_norm(self, tokens: Sequence[int]) -> Doubles:
        """The last LayerNorm's output y of the tokens."""
        positions, vocabulary = self.config["n_positions"], self.config["vocab_size"]
        if not 1 <= len(tokens) <= positions or not all(0 <= t < vocabulary for t in tokens):
            raise ValueError(f"give 1 to {positions} tokens from 0 to {vocabulary - 1}")
        x = self.weights["wte.weight"][list(tokens)] + self.weights["wpe.weight"][: len(tokens)]
        for i in range(self.config["n_layer"]):
            heads = self.attention(self.norm(x, f"h.{i}.ln_1"), i)
            x = x + self.product(heads, f"h.{i}.attn.c_proj")
            u = self.product(self.norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
            u = activation(self.config["activation_function"], u)
            x = x + self.product(u, f"h.{i}.mlp.c_proj")
        if "rotation.weight" not in self.weights:
            return self.norm(x, "ln_f")
        q = rotation(self.weights["rotation.weight"])
        return self.norm(x @ q.T, "ln_f") @ q

    def logits(self, hidden: Doubles) -> Doubles:
        """The logits of rows that `last_norm` made."""
        tied = self.config["tie_word_embeddings"]
        table = self.weights["wte.weight" if tied else "lm_head.weight"]
        return np.asarray(hidden @ table.T)


def logits(file: SecondFile, tokens: list[int]) -> Doubles:
    """The logits of all positions, `[tokens, vocab_size]`."""
    model = Model(file)
    with np.errstate(all="ignore"):
        return model.logits(model.last_norm(tokens))


def greedy(file: SecondFile, tokens: list[int], count: int) -> list[int]:
    """Up to `count` tokens that follow, each the likeliest (Greedy text of section 16)."""
    model, chosen = Model(file), list[int]()
    ids = file.config["eos_token_id"]
    ends = ids if isinstance(ids, list) else [ids]
    with np.errstate(all="ignore"):
        while len(chosen) < count:
            hidden = model.last_norm([*tokens, *chosen])
            chosen.append(int(model.logits(hidden[-1:])[0].argmax()))
            if chosen[-1] in ends or len(tokens) + len(chosen) > file.config["n_positions"]:
                break
    return chosen


# ---- Command line ------------------------------------------------------------------------------


def main() -> int:
    """Print the tensors of a file, and what it continues a prompt with."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--verify", action="store_true", help="check all rules of the page")
    parser.add_argument("--greedy", help="token ids of a prompt, such as 1,2,3")
    parser.add_argument("--count", type=int, default=8, help="tokens to append")
    options = parser.parse_args()
    try:
        file = read_file(options.file.read_bytes())
        if options.verify:
            file.verify()
            file.tokenizer_json()
        for name in file.names:
            values = file.tensor(name).astype("<f4", copy=False)
            digest = hashlib.sha256(values.tobytes()).hexdigest()
            print(f"{name:30} {'x'.join(map(str, values.shape)):12} {digest}")
        if options.greedy:
            prompt = [int(token) for token in options.greedy.split(",")]
            print(*greedy(file, prompt, options.count), sep=",")
    except BrokenFileError as broken:
        print(f"{broken.rule} {broken.error}: {broken}", file=sys.stderr)
        return 3
    except (OSError, ValueError, MemoryError) as problem:
        print(f"cannot do this: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
