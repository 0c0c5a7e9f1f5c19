"""Hold an encoded tensor as the container stores it, and decode it with its codec."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbe_cli.codec.registry import codec_named
from rbe_cli.errors import PayloadError
from rbe_cli.memory_needs import check_available
from rbe_cli.model.tensor_names import is_embedding

if TYPE_CHECKING:
    from rbe_cli.runtime.arrays import Float32
    from rbe_cli.weights.compressed_matrix import CompressedMatrix
    from rbe_cli.weights.weight_forms import Weight


@dataclass(frozen=True)
class StoredTensor:
    """An encoded tensor that is read from a file or will be written to one.

    Attributes:
        name: canonical name (`rbe_cli.model.tensor_names`).
        shape: shape of the decoded tensor.
        codec: a name of `rbe_cli.codec.registry.CODECS`.
        data: the codec's bytes. Those of a matrix from a file are 64-byte aligned.
    """

    name: str
    shape: tuple[int, ...]
    codec: str
    data: bytes | memoryview

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Return (K inputs, N outputs) of a matrix. Embeddings have the shape `[N, K]`."""
        rows, columns = self.shape[::-1] if is_embedding(self.name) else self.shape
        return rows, columns

    @property
    def is_transposed(self) -> bool:
        """Return whether the codec stores the transpose of the checkpoint's tensor."""
        return is_embedding(self.name) and not codec_named(self.codec).keeps_orientation

    @property
    def encoded_shape(self) -> tuple[int, ...]:
        """Return the shape of the array that the codec stores."""
        return self.shape[::-1] if self.is_transposed else self.shape

    def decode(self) -> "Float32":
        """Return the tensor as a checkpoint holds it: float32 values of shape `shape`.

        Raises:
            PayloadError: the bytes are malformed; the message names the tensor.
            MemoryRefusedError: there is too little memory.
        """
        check_available(f"to decode {self.name}", 4 * math.prod(self.shape))
        with self.errors_name_the_tensor():
            values = codec_named(self.codec).decode(self.data, self.encoded_shape)
        return values.T if self.is_transposed else values

    def resident(self) -> "Weight":
        """Return the tensor in the form that a model uses: matrices `[K inputs, N outputs]`.

        Raises:
            PayloadError: the bytes are malformed; the message names the tensor.
        """
        codec = codec_named(self.codec)
        with self.errors_name_the_tensor():
            if is_embedding(self.name) and codec.keeps_orientation:
                return codec.decode(self.data, self.shape).T
            return codec.resident(self.data, self.encoded_shape)

    def coded(self) -> "CompressedMatrix":
        """Return a matrix that stays encoded in memory, if its codec has such a form.

        Raises:
            PayloadError: the bytes are malformed; the message names the tensor.
        """
        with self.errors_name_the_tensor():
            return codec_named(self.codec).coded(self.data, self.encoded_shape)

    @contextmanager
    def errors_name_the_tensor(self) -> Iterator[None]:
        """Begin the message of any `PayloadError` within the context with the tensor's name."""
        try:
            yield
        except PayloadError as error:
            raise PayloadError(f"tensor {self.name}: {error}") from error
