"""Compare two `.rbe` files: config, origin, sizes, and the values of each tensor."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.stream_rotation import folded
from rbe_cli.container.as_checkpoint import checkpoint_tensors
from rbe_cli.container.file_layout import PlacedTensor
from rbe_cli.container.reader import Container
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import ROTATION, parameter_count
from rbe_cli.progress import Progress
from rbe_cli.runtime.arrays import Float32
from rbe_cli.weights.on_demand import OnDemand

Float64 = NDArray[np.float64]
Values = tuple[Mapping[str, Float32], Mapping[str, Float32]]
"""The tensors of both files by name, as checkpoints have them."""


@dataclass(frozen=True)
class Change:
    """Hold a value that the two files do not share."""

    key: str
    this: Any
    other: Any


@dataclass(frozen=True)
class TensorDifference:
    """Compare a tensor of both files; a field is None where a file does not have it.

    Attributes:
        shape, codec, bits_per_weight: in this file; `other_...` in the other.
        relative_error: Frobenius norm of the difference over that of the other file's tensor.
            None where the shapes differ, or only the other file's is all zero.
    """

    name: str
    shape: tuple[int, ...] | None
    other_shape: tuple[int, ...] | None
    codec: str | None
    other_codec: str | None
    bits_per_weight: float | None
    other_bits_per_weight: float | None
    relative_error: float | None


@dataclass(frozen=True)
class AttentionDifference:
    """Hold relative errors of what a layer's attention computes, in whatever bases of heads.

    A head's scores depend on its queries and keys through Wq Wk^T alone, and its output on
    Wv Wo alone. A file may hold them in any basis (ectcq/head_bases.py), so the tensors of two
    files may differ much and the function little. Errors below 1e-7 are rounding.

    Attributes:
        layer: its number.
        scores: error of Wq Wk^T of all heads, the queries' bias included. That of the keys changes
            no softmax.
        values: error of Wv Wo of all heads, the values' bias included.
    """

    layer: int
    scores: float | None
    values: float | None


@dataclass(frozen=True)
class Difference:
    """Hold all differences; `config` and `provenance` hold only what differs.

    Attributes:
        attention: errors of the layers that both have; empty if their heads or widths differ.
    """

    other: str
    config: list[Change]
    provenance: list[Change]
    sizes: list[Change]
    tensors: list[TensorDifference]
    attention: list[AttentionDifference]


def difference(this: Container, other: Container, progress: Progress) -> Difference:
    """Compare two files, decoding one tensor at a time.

    Raises:
        ChecksumError, PayloadError: a tensor is damaged.
    """
    provenance = [msgspec.structs.asdict(own.provenance) for own in (this, other)]
    values = _values(this, other)
    sizes = [
        Change("parameters", parameter_count(this.config), parameter_count(other.config)),
        Change("bits_per_weight", this.bits_per_weight, other.bits_per_weight),
        Change("file_bytes", this.file_bytes, other.file_bytes),
    ]
    return Difference(
        other=str(other.path),
        config=_changes(msgspec.to_builtins(this.config), msgspec.to_builtins(other.config)),
        provenance=_changes(*provenance),
        sizes=sizes,
        tensors=list(_tensors(this, other, values, progress)),
        attention=list(_attention(this, other, values, progress)),
    )


def _values(this: Container, other: Container) -> Values:
    """Return the tensors of both files in one basis.

    If one file's residual stream is rotated, it is turned back, and LayerNorms are folded in both.
    """
    both = checkpoint_tensors(this), checkpoint_tensors(other)
    if all(ROTATION not in own.tensors for own in (this, other)):
        return both
    first, second = (OnDemand(own, partial(folded, tensors=own)) for own in both)
    return first, second


def _changes(this: dict[str, Any], other: dict[str, Any]) -> list[Change]:
    keys = dict.fromkeys([*this, *other])  # in order, each once
    return [
        Change(key, this.get(key), other.get(key))
        for key in keys
        if this.get(key) != other.get(key)
    ]


def _tensors(
    this: Container, other: Container, values: Values, progress: Progress
) -> Iterator[TensorDifference]:
    ours, theirs = this.layout.tensors, other.layout.tensors
    names = list(dict.fromkeys([*ours, *theirs]))
    progress("comparing tensors", 0, len(names))
    for index, name in enumerate(names):
        own, its = ours.get(name), theirs.get(name)
        error = None
        if own and its and own.shape == its.shape:
            error = _tensor_error(name, this, other, values)
        yield _tensor(name, own, its, error)
        progress("comparing tensors", index + 1, len(names))


def _tensor(
    name: str, own: PlacedTensor | None, its: PlacedTensor | None, error: float | None
) -> TensorDifference:
    return TensorDifference(
        name,
        own.shape if own else None,
        its.shape if its else None,
        own.codec if own else None,
        its.codec if its else None,
        own.bits_per_weight if own else None,
        its.bits_per_weight if its else None,
        error,
    )


def _tensor_error(name: str, this: Container, other: Container, values: Values) -> float | None:
    own, its = this.tensors[name], other.tensors[name]
    is_rotated = ROTATION in this.tensors or ROTATION in other.tensors
    if own.codec == its.codec and own.data == its.data and not is_rotated:
        return 0.0
    if name == ROTATION:
        ours, decoded = own.decode(), its.decode()
    else:
        ours, decoded = (both[name] for both in values)
    theirs = decoded.astype(np.float64)
    change = float(np.linalg.norm(ours - theirs))
    return _relative(change, float(np.linalg.norm(theirs)))


def _relative(change: float, norm: float) -> float | None:
    if change == 0:
        return 0.0
    return change / norm if norm > 0 else None


def _attention(
    this: Container, other: Container, values: Values, progress: Progress
) -> Iterator[AttentionDifference]:
    ours, theirs = this.config, other.config
    if (ours.n_embd, ours.n_head) != (theirs.n_embd, theirs.n_head):
        return
    layers = min(ours.n_layer, theirs.n_layer)
    progress("comparing attention", 0, layers)
    for layer in range(layers):
        own, its = (_products(ours, tensors, layer) for tensors in values)
        errors = [_product_error(*pair) for pair in zip(own, its, strict=True)]
        yield AttentionDifference(layer, *errors)
        progress("comparing attention", layer + 1, layers)


def _products(
    config: Gpt2Config, tensors: Mapping[str, Float32], layer: int
) -> tuple[list[Float64], list[Float64]]:
    """Return the factors (left, right) of a layer's products Wq Wk^T, and of Wv Wo.

    All four are `[heads, rows, head_dim]`; the product of a head is left @ right^T.
    """
    c_attn, bias, c_proj = (
        tensors[f"h.{layer}.attn.{name}"].astype(np.float64)
        for name in ("c_attn.weight", "c_attn.bias", "c_proj.weight")
    )
    q, k, v = np.split(np.vstack([c_attn, bias]), 3, axis=1)  # [d + 1, d] each

    def by_head(matrix: Float64) -> Float64:
        return matrix.reshape(len(matrix), config.n_head, config.head_dim).transpose(1, 0, 2)

    return [by_head(q), by_head(k[:-1])], [by_head(v), by_head(c_proj.T)]


def _product_error(own: list[Float64], its: list[Float64]) -> float | None:
    """Return the relative error of left @ right^T over all heads, without forming it.

    <A B^T, C D^T> is the sum over elements of (A^T C) * (B^T D).
    """

    def inner(first: list[Float64], second: list[Float64]) -> float:
        grams = [a.transpose(0, 2, 1) @ b for a, b in zip(first, second, strict=True)]
        return float(np.sum(grams[0] * grams[1]))

    norm = inner(its, its)
    squared = inner(own, own) + norm - 2 * inner(own, its)
    return _relative(math.sqrt(max(squared, 0.0)), math.sqrt(max(norm, 0.0)))
