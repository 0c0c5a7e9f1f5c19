"""Change the bases inside attention heads, so that the weights of the heads take fewer bits.

The scores of a head depend only on Wq Wk^T and its output only on Wv Wo, including the biases. For
any invertible A and B, the weights Wq A, Wk A^-T, Wv B and B^-1 Wo give the same function. The
entropy coder assumes that the columns of a matrix are independent, so it saves bits if they are.
The total cost of errors does not change: the moments of inputs and gradients depend on the basis,
but the product of their determinants does not.
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.factors import cholesky_in_place, symmetric_eigenvectors, upper_inverse

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
_DAMPING = 1e-3  # relative to the mean diagonal of a moment: limits the scaling by a basis


def decorrelate(
    c_attn: Float32, bias: Float32, c_proj: Float32, heads: int
) -> tuple[Float32, Float32, Float32]:
    """Return the same attention in bases in which the columns of each head are uncorrelated.

    Args:
        c_attn: `[d, 3 * d]`, queries, keys and values side by side, each head by head.
        bias: the bias of `c_attn`, `[3 * d]`.
        c_proj: `[d, d]`.
        heads: the number of heads.

    Returns:
        The three arrays in the new bases, float32.
    """
    rows = np.vstack([c_attn, bias]).astype(
        np.float64
    )  # the bias as one more input: [d + 1, 3 * d]
    q, k, v = np.split(rows, 3, axis=1)  # views
    out = c_proj.astype(np.float64).T.copy()  # [d outputs, d]
    for head in np.split(np.arange(len(c_proj)), heads):
        for left, right in ((q, k), (v, out)):
            basis, inverse = _balanced(left[: len(c_attn), head], right[: len(c_attn), head])
            left[:, head] = product(left[:, head], basis)
            right[:, head] = product(right[:, head], inverse.T)
    changed = rows.astype(np.float32)
    return changed[:-1], changed[-1], np.ascontiguousarray(out.T, np.float32)


def _balanced(left: Float64, right: Float64) -> tuple[Float64, Float64]:
    """Return A and its inverse: left A and right A^-T have uncorrelated columns of equal power.

    With S and T the moments of their rows, A^T S A = A^-1 T A^-T is diagonal (contragredient
    diagonalisation; as in balanced truncation, Laub et al. 1987, algorithm 1).
    """
    lower = _moment(left)
    cholesky_in_place(lower)  # S = L L^T
    both = product(product(lower.T, _moment(right)), lower)
    values, vectors = symmetric_eigenvectors(both)
    roots = np.sqrt(np.sqrt(values))
    basis = product(upper_inverse(lower.T), vectors) * roots
    return basis, product(vectors.T, lower.T) / roots[:, None]


def _moment(weights: Float64) -> Float64:
    """Return the second moment of the rows `[K, n]`, each divided by its scale, with damping."""
    scales = np.sqrt(np.mean(weights**2, axis=1, keepdims=True))
    rows = weights / np.where(scales > 0, scales, 1.0)
    moment = product(rows.T, rows) / len(rows)
    damping = _DAMPING * float(np.trace(moment)) / len(moment) or 1.0
    return moment + damping * np.eye(len(moment))
