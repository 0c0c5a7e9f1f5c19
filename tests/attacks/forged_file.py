"""Build `.rbe` files from docs/FORMAT.md alone, and so what the writer never would."""

import math
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import xxhash

from rbe_cli.container.reader import Container
from rbe_cli.errors import ContainerError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, tensor_shapes


def digest(data: bytes) -> bytes:
    return xxhash.xxh3_64_digest(data)


class Forgery:
    """The parts of a valid file, open to change; all checksums fit what they have become."""

    def __init__(self, path: Path) -> None:
        self.path = path
        model = Gpt2Config(vocab_size=7, n_positions=3, n_embd=4, n_layer=1, n_head=2, n_inner=8)
        sizes = {name: 2 * math.prod(shape) for name, shape in tensor_shapes(model).items()}
        self.vector_names = [name for name in sizes if not is_matrix(name)]
        self.payloads = {
            name: bytes([index]) * sizes[name]
            for index, name in enumerate(sizes)
            if is_matrix(name)
        }
        self.payloads["vectors"] = b"v" * sum(sizes[name] for name in self.vector_names)
        self.payloads["tokenizer"] = zlib.compress(b"{}")

        self.version = 1
        self.config: dict[str, Any] = msgspec.to_builtins(model)
        self.codec_versions: dict[str, Any] = {"float16": 1}
        self.provenance: list[Any] = ["demo", "xxh3:00", "0.1.0", None, "none", 0, {"kl": 0.5}]
        self.matrices = [
            [name, "float16", len(data), digest(data)]
            for name, data in self.payloads.items()
            if is_matrix(name)
        ]
        self.vectors: list[Any] = [[name, "float16", sizes[name]] for name in self.vector_names]
        self.vectors_checksum = digest(self.payloads["vectors"])
        self.set_tokenizer(self.payloads["tokenizer"])
        self.padding = b"\0"
        self.tail = b""

    def set_tokenizer(self, section: bytes) -> None:
        self.payloads["tokenizer"] = section
        self.tokenizer = [len(section), digest(section)]

    def set_matrix_size(self, index: int, size: int) -> None:
        """Declare a matrix in a codec whose size does not follow from the shape."""
        self.codec_versions = {"ectcq": 1, "float16": 1}
        self.matrices[index][1:3] = ["ectcq", size]

    @property
    def header(self) -> list[Any]:
        return [
            self.config,
            self.codec_versions,
            self.provenance,
            self.matrices,
            self.vectors,
            self.vectors_checksum,
            self.tokenizer,
        ]

    @property
    def encoded_header(self) -> bytes:
        return msgspec.msgpack.encode(self.header)

    def build(self, encoded: bytes | None = None, header_bytes: int | None = None) -> bytes:
        """The file; with another header, or another length declared for it, if given."""
        if encoded is None:
            encoded = self.encoded_header
        if header_bytes is None:
            header_bytes = len(encoded)
        data = bytearray(b"\x89RBE\r\n\x1a\n" + self.version.to_bytes(4, "little"))
        data += header_bytes.to_bytes(4, "little") + digest(encoded) + encoded
        for payload in self.payloads.values():
            data += self.padding * (-len(data) % 64) + payload
        return bytes(data + self.tail)

    def read(self, data: bytes) -> int:
        """Open, verify and read everything; returns the peak of traced memory in bytes."""
        self.path.write_bytes(data)
        tracemalloc.start()
        try:
            with Container.open(self.path) as container:
                container.verify()
                assert len(list(container.tensors.values())) == len(tensor_shapes(container.config))
                assert container.tokenizer_json() == b"{}"
            return tracemalloc.get_traced_memory()[1]
        finally:
            self.peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()

    def is_refused(
        self,
        error: type[ContainerError],
        match: str,
        *,
        data: bytes | None = None,
        peak: int = 32 << 20,
    ) -> None:
        """Reading meets exactly this error, as one printable sentence, in little memory."""
        if data is None:
            data = self.build()
        with pytest.raises(error, match=match) as caught:
            self.read(data)
        assert type(caught.value) is error
        assert str(caught.value).startswith(f"{self.path}: ")
        assert str(caught.value).isprintable()
        assert self.peak < peak
