"""What can be timed of the layers, and in which ways they can be computed."""

from collections.abc import Sequence
from enum import StrEnum

from rbe_cli.choices import Backend
from rbe_cli.errors import UsageError


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

    On a GPU, `fused` multiplies by the 8-bit integers as they are, and `standard` by float32
    weights. The other two do not exist there.
    """

    fused = "fused"
    standard = "standard"
    mixed = "mixed"
    reference = "reference"


def supported_variants(backend: Backend, backward: bool) -> tuple[Variant, ...]:
    """Return the ways in which the backend can compute layers, forward or backward."""
    if backend == "cpu":
        return tuple(Variant)
    return (Variant.fused,) if backward else (Variant.fused, Variant.standard)


def supported_ops(backend: Backend, backward: bool) -> tuple[Op, ...]:
    """Return the layers that the backend can compute, forward or backward."""
    return (Op.layernorm,) if backward and backend == "cuda" else tuple(Op)


def check_supported(
    backend: Backend, backward: bool, ops: Sequence[Op], variants: Sequence[Variant]
) -> None:
    """Refuse layers, or ways to compute them, that do not exist on a backend.

    Raises:
        UsageError: naming the first that does not exist.
    """
    known_ops = supported_ops(backend, backward)
    known_variants = supported_variants(backend, backward)
    for op in ops:
        if op not in known_ops:
            raise UsageError(f"`op` {op} has no backward pass on `backend` {backend}")
    for variant in variants:
        if variant not in known_variants:
            names = " or ".join(known_variants)
            raise UsageError(
                f"`variant` {variant} does not exist on `backend` {backend}: take {names}"
            )
