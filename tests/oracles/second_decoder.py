"""A second decoder of whole `.rbe` files, written from docs/FORMAT.md and docs/codecs.md alone.

It imports nothing from the package: the tests hold the two to each other, so that neither the
documents nor the code can change alone. The codecs are in second_codecs.py.
"""

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from oracles.second_codecs import CODECS, BrokenFileError, Shape, need

_CONFIG = {
    "vocab_size": 2**24,
    "n_positions": 2**20,
    "n_embd": 2**16,
    "n_layer": 2**12,
    "n_head": 2**12,
    "n_inner": 2**18,
    "activation_function": None,
    "layer_norm_epsilon": None,
    "scale_attn_weights": None,
    "scale_attn_by_inverse_layer_idx": None,
    "tie_word_embeddings": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
"""Key -> limit, in the order of the file."""
_ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")
_TRANSPOSED = ("wte.weight", "wpe.weight", "lm_head.weight")


@dataclass(frozen=True)
class DecodedFile:
    """Everything that a file holds.

    Attributes:
        config: of the model.
        provenance: the seven fields.
        codecs: name of a tensor -> its codec.
        tensors: name of a tensor -> its values, float32, in the shape of the config's table.
        tokenizer: `tokenizer.json`; None if there is none.
    """

    config: dict[str, Any]
    provenance: list[Any]
    codecs: dict[str, str]
    tensors: dict[str, NDArray[np.float32]]
    tokenizer: bytes | None


def decode_file(data: bytes) -> DecodedFile:
    """Decode a file and check all rules of the two pages.

    Raises:
        BrokenFileError: with the error of the first rule that is broken.
    """
    start = data[:8]
    magic = b"\x89RBE\r\n\x1a\n"
    need(start == magic or not magic.startswith(start), "the magic is cut", "TruncatedError")
    need(start == magic, "the magic", "MagicError")
    need(len(data) >= 24, "the preamble is cut", "TruncatedError")
    version, size = struct.unpack_from("<II", data, 8)
    need(version == 1, "the format version", "VersionError")
    need(size <= 2**24, "the header is too large", "HeaderError")
    need(len(data) >= 24 + size, "the header is cut", "TruncatedError")
    encoded = data[24 : 24 + size]
    need(_checksum(encoded) == data[16:24], "the header's checksum", "ChecksumError")
    header = _Unpacker(encoded).whole()
    _check_fields(header)
    config, versions, provenance, matrices, vectors, vectors_checksum, tokenizer = header
    shapes = _shapes(config)
    _check_tensors(versions, matrices, vectors, shapes)

    records = [(name, size, checksum) for name, _, size, checksum in matrices]
    records.append(("vectors", sum(size for _, _, size in vectors), vectors_checksum))
    if tokenizer is not None:
        records.append(("tokenizer", *tokenizer))
    sections = _sections(data, 24 + size, records)

    codecs, tensors, place = {}, {}, 0
    for name, codec, *_ in matrices:
        codecs[name], tensors[name] = codec, _matrix(name, codec, sections[name], shapes[name])
    for name, codec, size in vectors:
        payload = sections["vectors"][place : place + size]
        codecs[name], tensors[name] = codec, CODECS[codec][1](payload, shapes[name])
        place += size
    json = None if tokenizer is None else _inflated(sections["tokenizer"])
    return DecodedFile(config, provenance, codecs, tensors, json)


def _checksum(data: bytes) -> bytes:
    return xxhash.xxh3_64_intdigest(data, seed=0).to_bytes(8, "big")


def _sections(data: bytes, end: int, records: list[Any]) -> dict[str, bytes]:
    """Return the bytes of each section by name."""
    places = []
    for name, size, checksum in records:
        start = math.ceil(end / 64) * 64
        places.append((name, end, start, start + size, checksum))
        end = start + size
    need(len(data) >= end, "the last section is cut", "TruncatedError")
    need(len(data) <= end, "bytes follow the last section", "GeometryError")
    for name, before, start, _, _ in places:
        need(not any(data[before:start]), f"the padding before {name}", "GeometryError")
    for name, _, start, stop, checksum in places:
        need(_checksum(data[start:stop]) == checksum, f"section {name}", "ChecksumError")
    return {name: data[start:stop] for name, _, start, stop, _ in places}


def _matrix(name: str, codec: str, payload: bytes, shape: Shape) -> NDArray[np.float32]:
    decode = CODECS[codec][1]
    if name in _TRANSPOSED and codec in ("classic", "ectcq", "fixed"):
        return decode(payload, shape[::-1]).T
    return decode(payload, shape)


def _inflated(section: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        json = stream.decompress(section, 2**26 + 1)
    except zlib.error as error:
        raise BrokenFileError("PayloadError", "the zlib stream") from error
    need(len(json) <= 2**26, "the tokenizer is too large")
    need(stream.eof and not stream.unused_data, "the section is not one zlib stream")
    return json


# ---- the header


def _is(value: Any, *kinds: type) -> bool:
    """Whether a value has one of these types; a boolean is no integer."""
    return type(value) in kinds


def _head(holds: object, reason: str) -> None:
    need(holds, reason, "HeaderError")


def _is_name(value: Any) -> bool:
    return _is(value, str) and 1 <= len(value) <= 256


def _is_text(value: Any) -> bool:
    return _is(value, str) and len(value) <= 4096


def _is_size(value: Any) -> bool:
    return _is(value, int) and value >= 1


def _is_checksum(value: Any) -> bool:
    return _is(value, bytes) and len(value) == 8


def _is_array(value: Any, checks: list[Any]) -> bool:
    """Whether a value is an array of exactly these fields."""
    return (
        _is(value, list)
        and len(value) == len(checks)
        and all(check(field) for check, field in zip(checks, value, strict=True))
    )


def _check_fields(header: Any) -> None:
    """Check the header's types, then the config's numbers."""
    _head(_is(header, list) and len(header) == 7, "the header's fields")
    config, versions, provenance, matrices, vectors, vectors_checksum, tokenizer = header
    _head(_is(versions, dict) and len(versions) <= 64, "the codec versions")
    _head(all(_is_name(name) and _is(n, int) for name, n in versions.items()), "a codec version")
    text_or_nil = lambda value: value is None or _is_text(value)  # noqa: E731
    is_integer = lambda value: _is(value, int)  # noqa: E731
    texts = [_is_text, _is_text, _is_text, text_or_nil, _is_text, is_integer, _are_extras]
    _head(_is_array(provenance, texts), "the provenance")
    matrix, vector = [_is_name, _is_name, _is_size, _is_checksum], [_is_name, _is_name, _is_size]
    _head(_is(matrices, list) and len(matrices) <= 2**15, "the matrices")
    _head(_is(vectors, list) and len(vectors) <= 2**16, "the vectors")
    _head(all(_is_array(one, matrix) for one in matrices), "a matrix")
    _head(all(_is_array(one, vector) for one in vectors), "a vector")
    _head(_is_checksum(vectors_checksum), "the vectors' checksum")
    _head(tokenizer is None or _is_array(tokenizer, [_is_size, _is_checksum]), "the tokenizer")
    _check_config(config)


def _are_extras(value: Any) -> bool:
    kinds = int, float, bool, type(None)
    return (
        _is(value, dict)
        and len(value) <= 256
        and all(_is_name(key) and (_is_text(v) or _is(v, *kinds)) for key, v in value.items())
    )


def _check_config(config: Any) -> None:
    _head(_is(config, dict) and list(config) == list(_CONFIG), "the config's keys")
    for key, limit in _CONFIG.items():
        if limit is not None:
            _head(_is(config[key], int) and 1 <= config[key] <= limit, key)
    for key in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings"):
        _head(_is(config[key], bool), key)
    _head(config["activation_function"] in _ACTIVATIONS, "activation_function")
    _head(config["n_embd"] % config["n_head"] == 0, "n_head does not divide n_embd")
    epsilon = config["layer_norm_epsilon"]
    _head(_is(epsilon, float) and 0 <= epsilon < 1, "layer_norm_epsilon")
    bos, eos = config["bos_token_id"], config["eos_token_id"]
    ends = eos if _is(eos, list) else [] if eos is None else [eos]
    for token in ends if bos is None else [bos, *ends]:
        _head(_is(token, int) and 0 <= token < config["vocab_size"], "a token")
    _head(not _is(eos, list) or len(eos) >= 2, "an array of eos_token_id")
    _head(len(set(ends)) == len(ends), "a token stands twice")


def _shapes(config: dict[str, Any]) -> dict[str, Shape]:
    """Return the shape of each tensor by name."""
    d, inner = config["n_embd"], config["n_inner"]
    shapes: dict[str, Shape] = {
        "wte.weight": (config["vocab_size"], d),
        "wpe.weight": (config["n_positions"], d),
        "ln_f.weight": (d,),
        "ln_f.bias": (d,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = config["vocab_size"], d
    linear = {
        "attn.c_attn": (d, 3 * d),
        "attn.c_proj": (d, d),
        "mlp.c_fc": (d, inner),
        "mlp.c_proj": (inner, d),
    }
    for i in range(config["n_layer"]):
        for norm in ("ln_1", "ln_2"):
            shapes[f"h.{i}.{norm}.weight"] = shapes[f"h.{i}.{norm}.bias"] = (d,)
        for name, (inputs, outputs) in linear.items():
            shapes[f"h.{i}.{name}.weight"] = inputs, outputs
            shapes[f"h.{i}.{name}.bias"] = (outputs,)
    return shapes


def _check_tensors(
    versions: dict[str, int], matrices: list[Any], vectors: list[Any], shapes: dict[str, Shape]
) -> None:
    """Check the codecs of tensors, their names, and the sizes that follow from shapes."""
    for codec, version in versions.items():
        need(codec in CODECS and version in CODECS[codec][0], f"codec {codec}", "VersionError")
    _head({codec for _, codec, *_ in matrices + vectors} == set(versions), "the codecs in use")
    _head(not any(codec in ("coded", "scalar") for _, codec, *_ in matrices), "a matrix's codec")
    _head(
        not any(codec in ("classic", "ectcq", "fixed") for _, codec, *_ in vectors),
        "a vector's codec",
    )
    for dimensions, tensors in ((2, matrices), (1, vectors)):
        wanted = sorted(name for name, shape in shapes.items() if len(shape) == dimensions)
        _head(sorted(name for name, *_ in tensors) == wanted, "the names of the tensors")
    for name, codec, size, *_ in matrices + vectors:
        count = math.prod(shapes[name])
        exact = {"float16": 2 * count, "float32": 4 * count, "scalar": 4}
        need(exact.get(codec, size) == size, f"the bytes of {name}", "GeometryError")


class _Unpacker:
    """Reads msgpack in its shortest form."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def whole(self) -> Any:
        """Return the one value that the bytes are."""
        value = self._value()
        _head(self._place == len(self._data), "bytes follow the header's value")
        return value

    def _take(self, count: int) -> bytes:
        taken = self._data[self._place : self._place + count]
        _head(len(taken) == count, "the header's value is cut")
        self._place += count
        return taken

    def _number(self, size: int, least: int) -> int:
        """Return an unsigned number of some bytes, which does not fit fewer."""
        number = int.from_bytes(self._take(size), "big")
        _head(number >= least, "a longer form than needed")
        return number

    def _value(self) -> Any:
        first = self._take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 256
        if first < 0x90:
            return self._map(first - 0x80)
        if first < 0xA0:
            return self._list(first - 0x90)
        if first < 0xC0:
            return self._text(first - 0xA0)
        return self._long_value(first)

    def _long_value(self, first: int) -> Any:
        constants = {0xC0: None, 0xC2: False, 0xC3: True}
        if first in constants:
            return constants[first]
        if first == 0xCB:
            return struct.unpack(">d", self._take(8))[0]
        if 0xC4 <= first <= 0xC6:
            size = first - 0xC4
            return self._take(self._number(2**size, (0, 2**8, 2**16)[size]))
        if 0xCC <= first <= 0xCF:
            size = first - 0xCC
            return self._number(2**size, (2**7, 2**8, 2**16, 2**32)[size])
        if 0xD0 <= first <= 0xD3:
            size = first - 0xD0
            number = int.from_bytes(self._take(2**size), "big", signed=True)
            _head(number < (-(2**5), -(2**7), -(2**15), -(2**31))[size], "a longer form")
            return number
        if 0xD9 <= first <= 0xDB:
            size = first - 0xD9
            return self._text(self._number(2**size, (2**5, 2**8, 2**16)[size]))
        if first in (0xDC, 0xDD):
            return self._list(self._number(*((2, 2**4) if first == 0xDC else (4, 2**16))))
        _head(first in (0xDE, 0xDF), f"a value of the kind {first:#x}")
        return self._map(self._number(*((2, 2**4) if first == 0xDE else (4, 2**16))))

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BrokenFileError("HeaderError", "text that is not UTF-8") from error

    def _list(self, count: int) -> list[Any]:
        return [self._value() for _ in range(self._bounded(count))]

    def _map(self, count: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in range(self._bounded(count)):
            key = self._value()
            _head(_is(key, str) and key not in found, "a key")
            found[key] = self._value()
        return found

    def _bounded(self, count: int) -> int:
        _head(count <= len(self._data) - self._place, "the header's value is cut")
        return count
