"""Products of Householder reflections, against one reflection after the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.algebra.orthonormal import orthonormal
from rbe_cli.algebra.reflections import product_of_reflections, reflection_vectors
from rbe_cli.runtime.thread_team import get_team

SIZES = st.integers(1, 40) | st.sampled_from([127, 128, 129, 300])


def reflection(vector):
    """I - 2 v v^T / (v^T v), or I."""
    size, square = len(vector), vector @ vector
    return np.eye(size) - 2 * np.outer(vector, vector) / square if square else np.eye(size)


def one_after_the_other(vectors):
    found = np.eye(len(vectors))
    for vector in vectors.T:
        found = found @ reflection(vector)
    return found


def is_orthogonal(matrix):
    return np.abs(matrix.T @ matrix - np.eye(len(matrix))).max() < 1e-11


@given(SIZES, st.integers(0, 2**32), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_product_is_that_of_single_reflections(size, seed, zeros):
    rng = np.random.default_rng(seed)
    vectors = np.tril(rng.standard_normal((size, size)) * 10.0 ** rng.uniform(-30, 30, size))
    vectors[:, rng.random(size) < zeros] = 0
    found = product_of_reflections(vectors)
    np.testing.assert_allclose(found, one_after_the_other(vectors), atol=1e-11)
    assert is_orthogonal(found)


@pytest.mark.parametrize("size", [2, 130, 300])
def test_reflections_in_few_dimensions_lose_no_digits(size):
    """Such vectors depend on each other, and the triangle has no small inverse by its looks."""
    rng = np.random.default_rng(size)
    vectors = np.zeros((size, size))
    vectors[-1] = 1
    vectors[-2, :-1] = rng.standard_normal(size - 1)
    found = product_of_reflections(vectors)
    np.testing.assert_allclose(found, one_after_the_other(vectors), atol=1e-11)


@given(SIZES, st.integers(0, 2**32), st.floats(0, 1))
def test_the_vectors_of_a_rotation_give_it_again(size, seed, share):
    """`share` of the axes are turned; the others stay as they are."""
    rng = np.random.default_rng(seed)
    orthogonal, turned = np.eye(size), max(1, int(share * size))
    orthogonal[:turned, :turned] = np.linalg.qr(rng.standard_normal((turned, turned)))[0]
    vectors = reflection_vectors(orthogonal)
    assert not np.triu(vectors, 1).any()
    squares = (vectors**2).sum(axis=0)
    assert np.all(np.isclose(squares, size - np.arange(size)) | (squares == 0))
    np.testing.assert_allclose(product_of_reflections(vectors), orthogonal, atol=1e-11)


def test_threads_give_the_same_bits():
    vectors = np.tril(np.random.default_rng(1).standard_normal((300, 300)))
    alone = product_of_reflections(vectors)
    np.testing.assert_array_equal(product_of_reflections(vectors, get_team(2)), alone)


@given(SIZES, st.integers(0, 2**32))
def test_orthonormal_columns_are_those_of_gram_and_schmidt(size, seed):
    rng = np.random.default_rng(seed)
    columns = np.eye(size) + 0.3 * rng.standard_normal((size, size)) / size**0.5
    q, r = np.linalg.qr(columns)
    found = orthonormal(columns)
    np.testing.assert_allclose(found, q * np.sign(np.diag(r)), atol=1e-9)
    assert is_orthogonal(found)
