"""Factor small matrices of float64, in one written order of sums."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.runtime.jit import program_code

Float64 = NDArray[np.float64]


@program_code
def cholesky_program(arithmetic: Any, matrix: Float64) -> int:
    """Replace a symmetric matrix A by U, A = U^T U; the lower triangle is neither read nor written.

    Returns 1 if A is not positive definite, else 0.
    """
    for k in range(len(matrix)):
        own = matrix[k]
        if not own[k] > 0.0:
            return 1
        root = math.sqrt(own[k])
        for j in range(k, len(own)):
            own[j] /= root
        for i in range(k + 1, len(matrix)):
            row, factor = matrix[i], own[i]
            for j in range(i, len(own)):
                row[j] -= factor * own[j]
    return 0


@program_code
def inverse_program(arithmetic: Any, upper: Float64, out: Float64) -> None:
    """Set `out` to the inverse of an upper triangular matrix."""
    size = len(upper)
    for i in range(size - 1, -1, -1):
        row = out[i]
        row[:] = 0.0
        for k in range(i + 1, size):
            factor, other = upper[i, k], out[k]
            for j in range(k, size):
                row[j] -= factor * other[j]
        for j in range(i + 1, size):
            row[j] /= upper[i, i]
        row[i] = 1.0 / upper[i, i]


@program_code
def jacobi_program(arithmetic: Any, matrix: Float64, vectors: Float64) -> None:
    """Make a symmetric matrix diagonal by rotations (Jacobi; Golub and Van Loan 2013, 8.5).

    `vectors` holds the identity, and receives the eigenvectors as rows.
    """
    size = len(matrix)
    for _ in range(30):  # each sweep squares the rest: 6 to 10 suffice
        rest, whole = 0.0, 0.0
        for p in range(size):
            whole += matrix[p, p] * matrix[p, p]
            for q in range(p + 1, size):
                rest += matrix[p, q] * matrix[p, q]
        if rest <= 1e-30 * whole:
            return
        for p in range(size - 1):
            for q in range(p + 1, size):
                if matrix[p, q] != 0.0:
                    _rotate(matrix, vectors, p, q)


@program_code
def _rotate(matrix: Float64, vectors: Float64, p: int, q: int) -> None:
    """Rotate two rows and columns so that their common element is 0."""
    theta = (matrix[q, q] - matrix[p, p]) / (2.0 * matrix[p, q])
    t = 1.0 / (abs(theta) + math.sqrt(theta * theta + 1.0))
    if theta < 0.0:
        t = -t
    c = 1.0 / math.sqrt(t * t + 1.0)
    s = t * c
    _turn(matrix[p], matrix[q], c, s)
    _turn(vectors[p], vectors[q], c, s)
    for k in range(len(matrix)):
        a, b = matrix[k, p], matrix[k, q]
        matrix[k, p] = c * a - s * b
        matrix[k, q] = s * a + c * b
    matrix[p, q] = matrix[q, p] = 0.0


@program_code
def _turn(first: Float64, second: Float64, c: float, s: float) -> None:
    for k in range(len(first)):
        a, b = first[k], second[k]
        first[k] = c * a - s * b
        second[k] = s * a + c * b
