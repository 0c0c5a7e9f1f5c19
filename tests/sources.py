"""Matrices to encode, with costs that are in memory."""

import numpy as np

from rbe_cli.codec.codec import CodecOptions
from rbe_cli.codec.ectcq.ectcq_codec import ECTCQ
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix
from rbe_cli.compression.encoding import Source, encode_all


def source_of(weights, cost):
    weights = weights.astype(np.float32)
    return Source.of(ECTCQ, CodecOptions(), weights, cost)


def matrices_of(sources, encoded):
    """Name -> EncodedMatrix, from the bytes of each source."""
    return {
        name: EncodedMatrix.from_bytes(data, sources[name].shape) for name, data in encoded.items()
    }


def encode(source, step, pool):
    """A source as an EncodedMatrix."""
    return matrices_of({"a": source}, dict(encode_all({"a": source}, {"a": step}, pool)))["a"]
