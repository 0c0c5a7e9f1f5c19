"""Rotate the residual stream of a model: the function stays the same, the weights take fewer bits.

All blocks read the residual stream through a LayerNorm and add to it. Let x be a state of the
stream, and Q an orthogonal matrix that keeps the vector of ones. Then the LayerNorm without gamma
and beta commutes with Q. So the model computes the same with x Q in place of x if gamma and beta
are multiplied into the matrix that follows, the matrices that read the stream become Q^T W, and
those that write to it W Q (as in SliceGPT, Ashkboos et al. 2024, arXiv 2401.15024, section 3).
The last LayerNorm stays as it is: it gets the state x, and its output is multiplied by Q again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.reflections import product_of_reflections, reflection_vectors
from rbe_cli.memory_needs import check_available
from rbe_cli.model.tensor_names import has_stream_axis, reads_stream
from rbe_cli.runtime.arrays import Float32, Float64, Floating
from rbe_cli.runtime.thread_team import Team

_WORKING_COPIES = 8  # of the matrix in float64


def rotation_bytes(width: int) -> int:
    """Return about the bytes that `StreamRotation.of_coded` takes, of a stream of this width."""
    return _WORKING_COPIES * 8 * width**2


def householder(rows: Float64) -> Float64:
    """Return H A for A `[d, n]`, where H is its own inverse and swaps ones / sqrt(d) and e_d."""
    size = len(rows)
    axis = np.full(size, size**-0.5)
    axis[-1] -= 1
    axis /= np.sqrt(product(axis[None], axis[:, None])[0, 0]) or 1.0
    return rows - 2 * axis[:, None] * product(axis[None], rows)


def coded_vectors(rotation: Float64) -> Float64:
    """Return what a file holds of a rotation `[d - 1, d - 1]`.

    Args:
        rotation: orthogonal. With one more dimension, it is that of the stream after `householder`.

    Returns:
        `[d, n]` with n = ceil((d - 1) / 2). Column j has vector j of `reflection_vectors`, and
        from the last row upwards vector d - 2 - j, each from its diagonal element on.
    """
    vectors = reflection_vectors(rotation)
    size = len(vectors)
    coded = np.zeros((size + 1, (size + 1) // 2))
    for first in range(coded.shape[1]):
        last = size - 1 - first
        coded[: size - first, first] = vectors[first:, first]
        if last > first:
            coded[size - first :, first] = vectors[last:, last][::-1]
    return coded


def inner_rotation(coded: Floating, team: Team | None = None) -> Float64:
    """Return the rotation `[d - 1, d - 1]` that `coded_vectors` `[d, n]` stand for."""
    size = len(coded) - 1
    vectors = np.zeros((size, size))
    for first in range(coded.shape[1]):
        last = size - 1 - first
        vectors[first:, first] = coded[: size - first, first]
        if last > first:
            vectors[last:, last] = coded[size - first :, first][::-1]
    return product_of_reflections(vectors, team)


@dataclass(frozen=True, eq=False)
class StreamRotation:
    """An orthogonal matrix that keeps the vector of ones.

    Attributes:
        matrix: Q, float32 `[d, d]`.
    """

    matrix: Float32

    @classmethod
    def of_coded(cls, coded: Floating, team: Team | None = None) -> "StreamRotation":
        """Return the rotation that a file holds (docs/FORMAT.md, "The rotation").

        Args:
            coded: `[d, n]`, the values of the tensor `rotation.weight` (`coded_vectors`).
            team: the threads that multiply; None for the calling thread.

        Raises:
            MemoryRefusedError: there is too little memory.
        """
        check_available("for the rotation of the residual stream", rotation_bytes(len(coded)))
        inner = np.eye(len(coded))
        inner[:-1, :-1] = inner_rotation(coded, team)
        return cls(householder(householder(inner).T).T.astype(np.float32))

    def into(self, x: Floating) -> Floating:
        """Return x Q for states x `[..., d]` of the original stream."""
        return _product(x, self.matrix)

    def out_of(self, x: Floating) -> Floating:
        """Return x Q^T for states x `[..., d]` of the rotated stream."""
        return _product(x, self.matrix.T)

    def mixing(self, gamma: Floating | float, beta: Floating | float) -> tuple[Float32, Float32]:
        """Return what makes the head's input of normalised states z of the rotated stream.

        Args:
            gamma, beta: `[d]`, or numbers for all elements, of the last LayerNorm.

        Returns:
            The matrix M = Q^T diag(gamma) Q, `[d, d]`, and the vector b = beta Q, `[d]`. The
            head's input is z M + b, which is (z Q^T gamma + beta) Q.
        """
        size = len(self.matrix)
        scale, shift = (np.broadcast_to(own, size).astype(np.float32) for own in (gamma, beta))
        return product(self.matrix.T * scale, self.matrix), self.into(shift)

    def rotated(self, name: str, tensor: Float32) -> Float32:
        """Return a tensor of the original, whose LayerNorm is folded, as the rotated model has it.

        Args:
            name: its canonical name.
            tensor: float32, in the shape of a checkpoint.
        """
        if reads_stream(name):
            return _product(tensor.T, self.matrix).T
        return self.into(tensor) if has_stream_axis(name) else tensor

    def restored(self, name: str, tensors: Mapping[str, Float32]) -> Float32:
        """Return a tensor of the rotated model as a model without rotation has it.

        A LayerNorm whose gamma differs from element to element, as after training, is folded.

        Args:
            name: its canonical name.
            tensors: of the rotated model, by canonical name.
        """
        norm = norm_before(name)
        if norm is not None and not is_even(tensors[f"{norm}.weight"]):
            tensor = folded(name, tensors)
        else:
            tensor = tensors[name]
        return StreamRotation(self.matrix.T).rotated(name, tensor)


def unrotated(rotation: StreamRotation | None, states: Floating) -> Floating:
    """Return states `[..., d]` of a stream that may have been rotated as they were before."""
    return states if rotation is None else rotation.out_of(states)


def _product(x: Floating, matrix: Float32) -> Floating:
    """Return x times the matrix for x `[..., d]`, in float32 or float64."""
    kind = np.result_type(x, np.float32)
    rows = x.reshape(-1, x.shape[-1]).astype(kind, copy=False)
    return product(rows, matrix.astype(kind, copy=False)).reshape(x.shape)


def folded(name: str, tensors: Mapping[str, Float32]) -> Float32:
    """Return a tensor of a model whose layers' LayerNorms are folded into the next matrices.

    Their gamma becomes 1 and their beta 0. The mean of each column of the next matrix, which
    nothing depends on then, becomes 0.

    Args:
        name: its canonical name.
        tensors: of the original, by canonical name.
    """
    own = tensors[name]
    norm = norm_before(name)
    if norm is None:
        return own
    gamma, beta = (tensors[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias"))
    if name.startswith(norm):
        return np.full_like(own, name.endswith("weight"))
    if name.endswith("bias"):
        weight = tensors[f"{name.removesuffix('bias')}weight"].astype(np.float64)
        with np.errstate(over="ignore"):
            return (own + product(beta[None], weight)[0]).astype(np.float32)
    rows = gamma[:, None] * own
    with np.errstate(over="ignore"):
        return (rows - rows.mean(axis=0)).astype(np.float32)


def is_even(gamma: Float32) -> bool:
    """Return whether all elements are the same, so that a rotation does not change them."""
    return bool((gamma == gamma[0]).all())


def norm_before(name: str) -> str | None:
    """Return the LayerNorm of a layer that a tensor belongs to or follows; None for none."""
    layer, _, part = name.rpartition(".")[0].partition(".")[2].partition(".")
    norms = {"ln_1": "ln_1", "attn.c_attn": "ln_1", "ln_2": "ln_2", "mlp.c_fc": "ln_2"}
    return f"h.{layer}.{norms[part]}" if part in norms else None
