"""Orthogonal matrices as products of Householder reflections, with the same bits on every CPU.

The reflection of a vector v is I - 2 v v^T / (v^T v). A vector of zeros stands for I. Vector j of
an n x n matrix has n - j elements that can differ from 0, so that n (n + 1) / 2 numbers are enough.
"""

import numpy as np

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.factors import upper_inverse
from rbe_cli.runtime.arrays import Float64
from rbe_cli.runtime.thread_team import Team

_BLOCK = 128  # reflections that are multiplied out at once
_SMALLEST = 1e-12  # length of a vector that is taken for zeros


def reflection_vectors(orthogonal: Float64) -> Float64:
    """Return the vectors whose reflections, one after the other, give an orthogonal matrix.

    Each maps a unit vector to a column (Golub and Van Loan 2013, 5.1.9 and 5.2.2).

    Args:
        orthogonal: float64 `[n, n]`.

    Returns:
        The vectors as columns, float64 `[n, n]`: those above the diagonal are 0. The squares of
        column j add up to n - j, or to 0.
    """
    size = len(orthogonal)
    rest, vectors = orthogonal.copy(), np.zeros_like(orthogonal)
    for j in range(size):
        own = rest[j:, j].copy()
        own[0] -= 1
        length = float(np.sqrt(product(own[None], own[:, None])[0, 0]))
        if length > _SMALLEST:
            own /= length
            below = rest[j:, j:]
            below -= 2 * own[:, None] * product(own[None], below)
            vectors[j:, j] = own * np.sqrt(size - j)
    return vectors


def product_of_reflections(vectors: Float64, team: Team | None = None) -> Float64:
    """Return the product of the reflections of the columns, from the first to the last.

    With columns V of length 1 it is I - V S^-1 V^T, where S is the upper triangle of V^T V with
    halves on its diagonal (the UT transform; Joffrain et al. 2006, ACM TOMS 32(2)).

    Args:
        vectors: float64 `[n, n]`.
        team: the threads that multiply; None for the calling thread.
    """
    lengths = np.sqrt((vectors * vectors).sum(axis=0))
    units = vectors / np.where(lengths > 0, lengths, 1)
    solved, found = np.zeros_like(units), np.eye(len(units))  # S^-1 V^T is upper triangular
    for start in reversed(range(0, len(units), _BLOCK)):
        own, down = slice(start, start + _BLOCK), slice(start, None)
        later = slice(start + _BLOCK, None)
        vectors = units[down, own]  # [n - start, block]
        corner = np.triu(product(vectors.T, vectors, team=team), 1)
        corner[np.diag_indices_from(corner)] = 0.5
        upper = product(units[later, own].T, units[later, later], team=team)
        rows = vectors.T.copy()
        rows[:, _BLOCK:] -= product(upper, solved[later, later], team=team)
        solved[own, down] = product(upper_inverse(corner), rows, team=team)
        found[down, down] -= product(vectors, solved[own, down], team=team)
    return found
