"""What can be timed of the layers, and in which ways they can be computed."""

from enum import StrEnum


class Op(StrEnum):
    """A layer of a transformer block, or the whole block."""

    layernorm = "layernorm"
    linear = "linear"
    feedforward = "feedforward"
    attention = "attention"
    block = "block"


class Variant(StrEnum):
    """Who computes, and how.

    `fused`: the compiled kernels, which multiply by the 8-bit integers as they are, normalise
    and activate in passing.
    `standard`: the same weights in float32, multiplied by numpy's library; each layer in passes
    of its own over all of its input.
    `mixed`: as `fused`, with input and LayerNorms in float16.
    `reference`: the kernels' equivalents in numpy, which first turn each matrix into float32, in
    every call, and run on as many threads as numpy's own library likes.
    """

    fused = "fused"
    standard = "standard"
    mixed = "mixed"
    reference = "reference"
