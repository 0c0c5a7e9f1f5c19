"""Encodes random matrices by the codec `ectcq`, without feedback."""

import numpy as np

from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, encode_block
from rbe_cli.codec.ectcq.trellis import QuantiserOptions
from rbe_cli.codec.error_cost import InputFactor, OutputFactor


def encode(weights, step, importance=None, states=8):
    """Encode without feedback; columns matter equally if not told otherwise."""
    weights = np.asarray(weights, np.float32)
    inputs = InputFactor.identity(len(weights))
    importance = np.ones(weights.shape[1]) if importance is None else importance
    blocks = [
        encode_block(
            np.ascontiguousarray(weights[:, columns]),
            step,
            inputs,
            OutputFactor.from_importance(importance[columns]),
            options=QuantiserOptions(states),
        )
        for columns in column_blocks(weights.shape[1])
    ]
    return EncodedMatrix(weights.shape, float(np.float32(step)), tuple(blocks), states)


def gaussian(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
