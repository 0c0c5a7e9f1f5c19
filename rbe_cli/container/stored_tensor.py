"""A tensor as the container sees it: bytes that only its codec understands."""

from dataclasses import dataclass

from rbe_cli.model.tensor_names import is_embedding


@dataclass(frozen=True)
class StoredTensor:
    """An encoded tensor, on its way into a file or out of one.

    Attributes:
        name: canonical name (`rbe_cli.model.tensor_names`).
        shape: shape of the decoded tensor.
        codec: a name of `rbe_cli.codec.registry.CODEC_VERSIONS`.
        data: the codec's bytes; from a file a read-only view of the mapping, whose start
            is 64-byte aligned for a matrix, and of no alignment for a vector.
    """

    name: str
    shape: tuple[int, ...]
    codec: str
    data: bytes | memoryview

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(K inputs, N outputs) of a matrix; embeddings are stored the other way round."""
        rows, columns = self.shape[::-1] if is_embedding(self.name) else self.shape
        return rows, columns
