"""The parts of a `.rbe` file, open to change, and the files that cases begin with."""

import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
from encoded_matrices import encode, gaussian
from fuzz.draws import joined
from small_files import PROVENANCE
from small_models import random_tensors, small_config

from rbe_cli.codec.codec import CodecOptions, EncodingJob
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, HybridBlock
from rbe_cli.codec.ectcq.trellis import state_labels
from rbe_cli.codec.entropy import rans
from rbe_cli.codec.registry import CODECS
from rbe_cli.codec.scales import scale_model
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.writer import write_container
from rbe_cli.model.tensor_names import is_embedding, is_matrix

GOLDEN = Path(__file__).parents[1] / "golden"
_LARGEST_SEED = 100_000  # bytes of a golden file that cases begin with
_MAGIC = b"\x89RBE\r\n\x1a\n"
_MATRICES, _VECTORS, _VECTORS_CHECKSUM, _TOKENIZER = 3, 4, 5, 6  # fields of the header
_SIZE, _CHECKSUM = 2, 3  # fields of a matrix


@dataclass(frozen=True)
class RbeParts:
    """A file in parts.

    Attributes:
        header: as msgpack holds it.
        sections: their bytes, in order.
        version: of the format.
    """

    header: list[Any]
    sections: tuple[bytes, ...]
    version: int

    @classmethod
    def of(cls, data: bytes) -> "RbeParts":
        """Take a valid file apart."""
        version, size = struct.unpack_from("<II", data, 8)
        header = msgspec.msgpack.decode(data[24 : 24 + size])
        sizes = [matrix[_SIZE] for matrix in header[_MATRICES]]
        sizes.append(sum(vector[_SIZE] for vector in header[_VECTORS]))
        if header[_TOKENIZER] is not None:
            sizes.append(header[_TOKENIZER][0])
        sections, end = [], 24 + size
        for own in sizes:
            start = -(-end // 64) * 64
            end = start + own
            sections.append(data[start:end])
        return cls(header, tuple(sections), version)

    @property
    def tail(self) -> bytes:
        """Return the sections and what is between them; the first begins at a multiple of 64."""
        parts = [own + bytes(-len(own) % 64) for own in self.sections[:-1]]
        return joined(parts, self.sections[-1])

    def with_section(self, index: int, data: bytes) -> "RbeParts":
        """Return a file with another section, its size and checksum corrected."""
        header, checksum = list(self.header), xxhash.xxh3_64_digest(data)
        count = len(header[_MATRICES])
        if index < count:
            matrices = list(header[_MATRICES])
            name, codec = matrices[index][:2]
            matrices[index] = [name, codec, len(data), checksum]
            header[_MATRICES] = matrices
        elif index == count:
            header[_VECTORS_CHECKSUM] = checksum
        else:
            header[_TOKENIZER] = [len(data), checksum]
        return replace(self, header=header, sections=_replaced(self.sections, index, data))

    def with_vector(self, index: int, data: bytes) -> "RbeParts":
        """Return a file with other bytes of a vector."""
        vectors = self.header[_VECTORS]
        sizes = [vector[_SIZE] for vector in vectors]
        start, place = sum(sizes[:index]), len(self.header[_MATRICES])
        section = self.sections[place]
        section = section[:start] + data + section[start + sizes[index] :]
        own = [*vectors[index][:_SIZE], len(data)]
        header = list(self.header)
        header[_VECTORS] = [*vectors[:index], own, *vectors[index + 1 :]]
        return replace(self, header=header).with_section(place, section)


def assembled(encoded_header: bytes, tail: bytes, version: int) -> bytes:
    """Return a file with the right preamble."""
    checksum = xxhash.xxh3_64_digest(encoded_header)
    preamble = struct.pack("<8sII8s", _MAGIC, version, len(encoded_header), checksum)
    return joined(preamble, encoded_header, bytes(-(24 + len(encoded_header)) % 64), tail)


def _replaced(sections: tuple[bytes, ...], index: int, data: bytes) -> tuple[bytes, ...]:
    return (*sections[:index], data, *sections[index + 1 :])


@lru_cache(1)
def rbe_seeds() -> tuple[bytes, ...]:
    """Return small files of every codec and option, and the golden ones."""
    from small_tokenizer import train_tokenizer

    small = [_file_in(codec, index) for index, codec in enumerate(_FORMS)]
    with_tokenizer = _file_in("mixed", 9, tokenizer_json=train_tokenizer(), vocab_size=300)
    golden = [path.read_bytes() for path in sorted(GOLDEN.glob("*.rbe"))]
    return (*small, with_tokenizer, *(own for own in golden if len(own) <= _LARGEST_SEED))


_FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "dense": (("float32",), ("float32",)),
    "half": (("float16",), ("float16", "scalar")),
    "fixed": (("fixed2", "fixed4", "fixed8"), ("float16", "coded")),
    "classic": (("classic",), ("coded", "scalar")),
    "ectcq": (("ectcq8", "ectcq16"), ("coded",)),
    "states": (("ectcq32", "ectcq64"), ("coded", "float32")),
    "mixed": (("ectcq8", "classic", "fixed4", "float16"), ("coded", "scalar", "float16")),
}
"""The codecs of matrices and of vectors, which tensors take in turn."""


def _file_in(form: str, seed: int, *, tokenizer_json: bytes | None = None, **sizes: int) -> bytes:
    """Return a file of one layer in the codecs of a form."""
    from fuzz.scratch import SCRATCH

    config = small_config(
        **{"vocab_size": 40, "n_positions": 12, "n_embd": 12, "n_layer": 1, "n_head": 2}
        | {"n_inner": 20, "tie_word_embeddings": form != "mixed"}
        | sizes
    )
    kinds, counts = _FORMS[form], [0, 0]
    stored = []
    for name, tensor in random_tensors(config, seed).items():
        place = 0 if is_matrix(name) else 1
        codec = kinds[place][counts[place] % len(kinds[place])]
        counts[place] += 1
        stored.append(stored_in(codec, name, tensor))
    path = SCRATCH.path / "seed.rbe"
    write_container(
        path,
        config=config,
        tensors=stored,
        tokenizer_json=tokenizer_json,
        provenance=PROVENANCE,
        force=True,
    )
    data = path.read_bytes()
    path.unlink()
    return data


def stored_in(codec: str, name: str, tensor: "np.ndarray[Any, Any]") -> StoredTensor:
    """Encode a tensor in a codec, whose name may end with its bits or states."""
    kind = codec.rstrip("0123456789") if codec not in CODECS else codec
    number = int(codec[len(kind) :] or 0)
    shape = tensor.shape
    if is_embedding(name) and not CODECS[kind].keeps_orientation:
        tensor = np.ascontiguousarray(tensor.T)
    if kind == "ectcq":
        return StoredTensor(name, shape, kind, encode(tensor, 0.04, states=number or 8).to_bytes())
    options = CodecOptions(bits=number or 6.0, block=16, is_asked=True)
    if kind == "coded":
        from rbe_cli.codec.vectors.coded_vector import encode_vector

        return StoredTensor(name, shape, kind, encode_vector(tensor, 0.01))
    payload = CODECS[kind].encode(tensor, EncodingJob(options))
    return StoredTensor(name, shape, payload.codec, payload.data)


def extreme_tensors() -> list[StoredTensor]:
    """Return tensors whose bytes are legal and unusual."""
    spiky = gaussian((33, 34))
    spiky[::5, ::3] *= 1000
    tiny, huge = gaussian((5, 40), 1) * 1e-36, gaussian((40, 5), 2) * 1e33
    name = "h.0.mlp.c_fc.weight"
    made = [("ectcq", spiky, 0.1), ("ectcq", tiny, 1e-37), ("ectcq", huge, 1e32)]
    made += [("ectcq", np.zeros((3, 3), np.float32), 1.0), ("ectcq", gaussian((1, 1)), 1e-3)]
    made += [("ectcq", gaussian((32, 1030)), 1.0), ("ectcq", spiky, 30.0)]
    stored = [
        StoredTensor(name, values.shape, codec, encode(values, step).to_bytes())
        for codec, values, step in made
    ]
    stored.append(_extreme_integers(name))
    others = ("fixed2", "fixed4", "fixed8", "classic", "float32", "float16")
    shapes = ((1, 1), (33, 17), (7, 40))
    stored += [stored_in(own, name, gaussian(shape)) for own in others for shape in shapes]
    wild = np.array([1e30, -1e30, 0.0, 3.0, 1e-30], np.float32)
    vector = "h.0.mlp.c_fc.bias"
    stored += [stored_in(own, vector, wild) for own in ("coded", "scalar", "float32")]
    return stored


def _extreme_integers(name: str) -> StoredTensor:
    """Return a matrix with integers that no encoder chooses, at about the largest step."""
    integers = np.zeros((4, 3), np.int32)
    integers[0, 0], integers[1, 0] = -32768, -32766
    zeros = np.zeros(3, np.int16)
    models = np.array([scale_model(zeros)] * 3, np.int16)
    rows = np.zeros(4, np.int16)
    states, words = rans.encode(integers, zeros, rows, zeros, zeros, models, state_labels(8))
    block = HybridBlock(models, states, words)
    return StoredTensor(name, (4, 3), "ectcq", EncodedMatrix((4, 3), 1.03e34, (block,)).to_bytes())
