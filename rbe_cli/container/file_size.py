"""Compute the size of a `.rbe` file from the sizes of its parts, without encoding them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from rbe_cli.codec.registry import codec_named
from rbe_cli.container.file_layout import section_offsets
from rbe_cli.container.header import PREAMBLE, Matrix, TokenizerRecord, Vector
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix

_CHECKSUM = bytes(8)


class TensorSize(NamedTuple):
    """The name of a tensor, the name of its codec, and how many bytes it takes encoded."""

    name: str
    codec: str
    bytes: int


class FileSize:
    """A function that computes the size of a file from the sizes of its tensors."""

    def __init__(
        self, config: Gpt2Config, tokenizer_bytes: int | None, provenance_bytes: int
    ) -> None:
        """Set the parts that do not depend on the tensors.

        Args:
            config: the model's config.
            tokenizer_bytes: `len(pack_tokenizer(json))`; None without a tokenizer.
            provenance_bytes: bytes of the provenance in the header, as msgpack.
        """
        self._tokenizer_bytes = tokenizer_bytes
        tokenizer = TokenizerRecord(tokenizer_bytes, _CHECKSUM) if tokenizer_bytes else None
        self._constant = (
            1  # the header is an array of seven fields
            + packed_bytes(config)
            + provenance_bytes
            + packed_bytes(_CHECKSUM)
            + packed_bytes(tokenizer)
        )

    def header_bytes(self, tensors: Iterable[TensorSize]) -> int:
        """Return the size of the encoded header in bytes."""
        entries = {True: 0, False: 0}  # bytes of the matrices' and of the vectors' entries
        counts = {True: 0, False: 0}
        versions: dict[str, int] = {}
        for name, codec, size in tensors:
            kind = is_matrix(name)
            entry = Matrix(name, codec, size, _CHECKSUM) if kind else Vector(name, codec, size)
            entries[kind] += packed_bytes(entry)
            counts[kind] += 1
            versions[codec] = codec_named(codec).version
        arrays = sum(container_prefix(count) for count in counts.values())
        return self._constant + packed_bytes(versions) + arrays + sum(entries.values())

    def __call__(self, tensors: Iterable[TensorSize]) -> int:
        """Return the size of the whole file in bytes."""
        tensors = list(tensors)
        sizes = [size for name, _, size in tensors if is_matrix(name)]
        sizes.append(sum(size for name, _, size in tensors if not is_matrix(name)))
        if self._tokenizer_bytes is not None:
            sizes.append(self._tokenizer_bytes)
        offsets = section_offsets(PREAMBLE.size + self.header_bytes(tensors), sizes)
        return offsets[-1] + sizes[-1]


def packed_bytes(value: Any) -> int:
    """Return how many bytes a value takes as msgpack."""
    return len(msgspec.msgpack.encode(value))


def container_prefix(count: int) -> int:
    """Return how many bytes stand before the elements of a msgpack array or map of `count`."""
    return 1 if count < 16 else 3 if count < 1 << 16 else 5
