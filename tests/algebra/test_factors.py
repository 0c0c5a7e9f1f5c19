"""Factors of symmetric matrices: right, and with the same bits on every instruction set."""

import numpy as np
import pytest

from rbe_cli.algebra.factors import (
    cholesky_in_place,
    solve_positive,
    symmetric_eigenvectors,
    upper_inverse,
)
from rbe_cli.runtime import native
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.thread_team import get_team


def positive(size, seed=0):
    rows = np.random.default_rng(seed).standard_normal((2 * size + 3, size))
    return rows.T @ rows / len(rows) + 1e-3 * np.eye(size)


@pytest.mark.parametrize("size", [1, 2, 127, 128, 129, 300])
def test_the_cholesky_factor(size):
    matrix = positive(size)
    lower = matrix + np.triu(np.full(matrix.shape, 5.0), 1)  # what is above is not read
    cholesky_in_place(lower)
    assert np.allclose(lower @ lower.T, matrix, rtol=0, atol=1e-13)
    assert np.array_equal(lower, np.tril(lower))


@pytest.mark.parametrize("place", [0, 127, 128, 140])
def test_a_matrix_that_is_not_positive_definite_is_refused(place):
    matrix = positive(150)
    matrix[place, place] = -1
    with pytest.raises(np.linalg.LinAlgError):
        cholesky_in_place(matrix)
    matrix[place, place] = np.nan
    with pytest.raises(np.linalg.LinAlgError):
        cholesky_in_place(matrix)


@pytest.mark.parametrize("size", [1, 5, 130])
def test_inverses_and_solutions(size):
    matrix, right = positive(size), np.random.default_rng(1).standard_normal((size, 3))
    found = solve_positive(matrix, right)
    assert np.allclose(matrix @ found, right, rtol=0, atol=1e-10)
    lower = np.linalg.cholesky(matrix)
    assert np.allclose(upper_inverse(lower.T) @ lower.T, np.eye(size), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 16, 33, 64])
def test_eigenvectors(size):
    matrix = positive(size)
    values, vectors = symmetric_eigenvectors(matrix)
    assert np.allclose(values, np.linalg.eigvalsh(matrix), rtol=1e-12, atol=1e-13)
    assert np.allclose(matrix @ vectors, vectors * values, rtol=0, atol=1e-12)
    assert np.allclose(vectors.T @ vectors, np.eye(size), rtol=0, atol=1e-13)


def test_equal_and_extreme_eigenvalues():
    values, vectors = symmetric_eigenvectors(np.diag([3.0, 1.0, 3.0, 0.0]))
    assert values.tolist() == [0, 1, 3, 3]
    assert np.array_equal(np.abs(vectors).sum(axis=0), np.ones(4))
    wide = np.array([[1e-200, 1e-3], [1e-3, 1e200]])
    values, _ = symmetric_eigenvectors(wide)
    assert np.allclose(values[1], 1e200)
    assert symmetric_eigenvectors(np.zeros((3, 3)))[0].tolist() == [0, 0, 0]


def test_all_instruction_sets_give_the_same_bits(monkeypatch):
    matrix, right = positive(150, 3), np.eye(150)[:, :5]
    found = []
    for instructions in available():
        monkeypatch.setattr(native, "chosen", lambda own=instructions: own)
        lower = matrix.copy()
        cholesky_in_place(lower)
        small = symmetric_eigenvectors(matrix[:40, :40])
        found.append([lower, solve_positive(matrix, right), upper_inverse(lower.T), *small])
    for other in found[1:]:
        assert all(np.array_equal(*pair) for pair in zip(found[0], other, strict=True))


def test_several_threads_give_the_same_bits():
    matrix, right = positive(300, 4), np.random.default_rng(5).standard_normal((300, 200))
    alone, shared = matrix.copy(), matrix.copy()
    cholesky_in_place(alone)
    cholesky_in_place(shared, get_team(2))
    assert np.array_equal(alone, shared)
    assert np.array_equal(solve_positive(matrix, right), solve_positive(matrix, right, get_team(2)))
