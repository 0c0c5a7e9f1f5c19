"""Find bases inside attention heads in which their weights cost fewer bits.

A head's scores depend on Wq Wk^T alone and its output on Wv Wo alone, biases going along: with
any invertible A and B, Wq A, Wk A^-T, Wv B and B^-1 Wo are the same function. The entropy coder
takes the columns of a matrix to be independent, so it is worth the more, the more they are.
What errors cost in sum does not change: the moments of the inputs and of the gradients change
with the basis, the product of their determinants does not.
"""

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
_DAMPING = 1e-3  # of a moment's mean diagonal: bounds how far a basis may stretch


def decorrelate(
    c_attn: Float32, bias: Float32, c_proj: Float32, heads: int
) -> tuple[Float32, Float32, Float32]:
    """Return the same attention, in bases in which the columns of each head are uncorrelated.

    Args:
        c_attn: `[d, 3 * d]`, queries, keys and values side by side, each head by head.
        bias: of `c_attn`, `[3 * d]`.
        c_proj: `[d, d]`.
        heads: that d is divided into.

    Returns:
        The three in the new bases, float32.
    """
    rows = np.vstack([c_attn, bias]).astype(
        np.float64
    )  # the bias as one more input: [d + 1, 3 * d]
    q, k, v = np.split(rows, 3, axis=1)  # views
    out = c_proj.astype(np.float64).T.copy()  # [d outputs, d]
    for head in np.split(np.arange(len(c_proj)), heads):
        for left, right in ((q, k), (v, out)):
            basis = _balanced(left[: len(c_attn), head], right[: len(c_attn), head])
            left[:, head] = left[:, head] @ basis
            right[:, head] = np.linalg.solve(basis, right[:, head].T).T
    changed = rows.astype(np.float32)
    return changed[:-1], changed[-1], np.ascontiguousarray(out.T, np.float32)


def _balanced(left: Float64, right: Float64) -> Float64:
    """Return A such that left A and right A^-T have uncorrelated columns, of the same powers.

    With S and T the moments of their rows, A^T S A = A^-1 T A^-T is diagonal (contragredient
    diagonalisation; as in balanced truncation, Laub et al. 1987, algorithm 1).
    """
    lower = np.linalg.cholesky(_moment(left))  # S = L L^T
    values, vectors = np.linalg.eigh(lower.T @ _moment(right) @ lower)
    return np.linalg.solve(lower.T, vectors) * values**0.25


def _moment(weights: Float64) -> Float64:
    """Return the second moment of rows `[K, n]`, each divided by its scale, as the coder models."""
    scales = np.sqrt(np.mean(weights**2, axis=1, keepdims=True))
    rows = weights / np.where(scales > 0, scales, 1.0)
    moment = rows.T @ rows / len(rows)
    damping = _DAMPING * float(np.trace(moment)) / len(moment) or 1.0
    return moment + damping * np.eye(len(moment))
