"""Factor symmetric matrices of float64, with the same bits on every CPU.

LAPACK's results depend on the CPU, as a BLAS multiplies for it.
"""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.runtime.libraries import CHOLESKY, INVERSE, JACOBI
from rbe_cli.runtime.native import load
from rbe_cli.runtime.thread_team import Team

Float64 = NDArray[np.float64]
_BLOCK = 128  # columns that are factored at once


def cholesky_in_place(matrix: Float64, team: Team | None = None) -> None:
    """Replace a positive definite matrix by its lower triangular Cholesky factor.

    It goes from left to right, a block of columns at a time (Golub and Van Loan 2013, 4.2.8).

    Args:
        matrix: float64 `[n, n]`, of which only the lower triangle is read.
        team: the threads that multiply; None for the calling thread.

    Raises:
        LinAlgError: the matrix is not positive definite.
    """
    (factor,) = load([CHOLESKY])
    for start in range(0, len(matrix), _BLOCK):
        own, below = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        if start:
            before = matrix[start:, :start]
            matrix[start:, own] -= product(before, before[:_BLOCK].T, team=team)
        corner = matrix[own, own].T.copy()
        if factor(corner):
            raise np.linalg.LinAlgError("a matrix is not positive definite")
        corner = np.triu(corner)
        matrix[own, own] = corner.T
        if start + _BLOCK < len(matrix):
            matrix[below, own] = product(matrix[below, own], upper_inverse(corner), team=team)
        matrix[:start, own] = 0


def upper_inverse(upper: Float64) -> Float64:
    """Return the inverse of an upper triangular matrix, float64 `[n, n]`."""
    (invert,) = load([INVERSE])
    out = np.empty_like(upper, order="C")
    invert(np.ascontiguousarray(upper), out)
    return out


def solve_positive(matrix: Float64, right: Float64, team: Team | None = None) -> Float64:
    """Return X with A X = B, for a positive definite matrix A; float64 `[n, columns]`.

    Args:
        matrix: A, float64 `[n, n]`.
        right: B, float64 `[n, columns]`.
        team: the threads that multiply; None for the calling thread.

    Raises:
        LinAlgError: the matrix is not positive definite.
    """
    lower, found = np.array(matrix, order="C"), np.array(right, order="C")
    cholesky_in_place(lower, team)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(lower), _BLOCK)]
    inverses = [upper_inverse(lower[own, own].T) for own in blocks]
    for own, inverse in zip(blocks, inverses, strict=True):  # L Y = B
        rest = found[own] - product(lower[own, : own.start], found[: own.start], team=team)
        found[own] = product(inverse.T, rest, team=team)
    for own, inverse in zip(blocks[::-1], inverses[::-1], strict=True):  # L^T X = Y
        rest = found[own] - product(lower[own.stop :, own].T, found[own.stop :], team=team)
        found[own] = product(inverse, rest, team=team)
    return found


def symmetric_eigenvectors(matrix: Float64) -> tuple[Float64, Float64]:
    """Return the eigenvalues of a symmetric matrix, ascending, and the eigenvectors as columns.

    Args:
        matrix: float64 `[n, n]`.

    Returns:
        float64 `[n]` and `[n, n]`.
    """
    (diagonalise,) = load([JACOBI])
    rest, vectors = np.array(matrix, order="C"), np.eye(len(matrix))
    diagonalise(rest, vectors)
    values = np.diag(rest)
    order = np.argsort(values, kind="stable")
    return values[order], vectors[order].T
