"""A tensor as the container sees it: bytes that only its codec understands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StoredTensor:
    """An encoded tensor, on its way into a file or out of one.

    Attributes:
        name: canonical name (`rbe_cli.checkpoint.names`).
        shape: shape of the decoded tensor.
        codec: a name of `rbe_cli.codec.registry.CODEC_VERSIONS`.
        data: the codec's bytes; from a file a read-only view of the mapping, whose start
            is 64-byte aligned for a matrix, and of no alignment for a vector.
    """

    name: str
    shape: tuple[int, ...]
    codec: str
    data: bytes | memoryview
