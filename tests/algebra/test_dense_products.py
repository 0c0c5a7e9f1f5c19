"""Products of matrices: one written order of sums on every instruction set."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.algebra.dense_products import product
from rbe_cli.errors import UsageError
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.thread_team import get_team

SETS = available()


def random(rng, *shape, kind=np.float32):
    return rng.standard_normal(shape).astype(kind)


def in_order(a, b, start=None):
    """The product as one chain of sums for each element: fused for float32, else rounded twice."""
    rows, columns = a.shape[0], b.shape[1]
    out = np.zeros((rows, columns), a.dtype) if start is None else start.copy()
    for k in range(a.shape[1]):
        if a.dtype == np.float64:
            out = out + a[:, k, None] * b[None, k]
        else:
            out = fused(a[:, k, None], b[None, k], out)
    return out


def fused(a, b, c):
    """a b + c of float32, rounded once."""

    def one(x, y, z):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        guess = np.float32(float(exact))
        near = [guess, *(np.nextafter(guess, np.float32(end)) for end in (-np.inf, np.inf))]
        return min(
            near, key=lambda own: (abs(Fraction(float(own)) - exact), own.view(np.uint32) & 1)
        )

    return np.vectorize(one, otypes=[np.float32])(*np.broadcast_arrays(a, b, c))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("instructions", SETS, ids=lambda own: own.name)
def test_each_element_is_one_chain_of_sums(instructions, kind):
    rng = np.random.default_rng(1)
    a, b = random(rng, 5, 7, kind=kind), random(rng, 7, 18, kind=kind)
    found = product(a, b, team=get_team(1, instructions))
    assert np.array_equal(found, in_order(a, b))


SIZES = st.integers(1, 70)


@given(
    SIZES, st.sampled_from([1, 3, 31, 256, 300]), SIZES, st.integers(0, 3), st.booleans(),
    st.sampled_from([np.float32, np.float64]), st.integers(0, 2**32),
)  # fmt: skip
def test_all_sets_layouts_and_threads_give_the_same_bits(
    rows, steps, columns, layout, adds, kind, seed
):
    rng = np.random.default_rng(seed)
    a, b = random(rng, rows, steps, kind=kind), random(rng, steps, columns, kind=kind)
    before = random(rng, rows, columns, kind=kind)
    expected = product(a, b, before.copy(), adds=adds, team=get_team(1, SETS[-1]))
    exact = before * adds + a.astype(np.float64) @ b.astype(np.float64)
    assert np.allclose(expected, exact, atol=1e-3)
    if layout & 1:
        a = a.T.copy().T
    if layout & 2:
        b = b.T.copy().T
    for instructions in SETS:
        found = before.copy()
        product(a, b, found, adds=adds, team=get_team(1, instructions))
        assert np.array_equal(found, expected), instructions


@pytest.mark.parametrize("instructions", SETS[:1], ids=lambda own: own.name)
def test_threads_share_a_large_product(instructions):
    rng = np.random.default_rng(2)
    a, b = random(rng, 130, 300), random(rng, 300, 700)
    items = random(rng, 9, 140, 70), random(rng, 9, 70, 90)
    alone, together = get_team(1, instructions), get_team(2, instructions)
    assert np.array_equal(product(a, b, team=alone), product(a, b, team=together))
    assert np.array_equal(product(*items, team=alone), product(*items, team=together))


def test_several_products_are_those_of_each():
    rng = np.random.default_rng(3)
    a, b = random(rng, 4, 9, 21), random(rng, 4, 6, 21).transpose(0, 2, 1)
    out = np.zeros((9, 4, 6), np.float32).transpose(1, 0, 2)
    product(a, b, out)
    assert np.array_equal(out, [product(*pair) for pair in zip(a, b, strict=True)])


def test_parts_of_arrays_are_multiplied_in_place():
    rng = np.random.default_rng(4)
    whole = random(rng, 40, 50, kind=np.float64)
    out = np.full((20, 30), 7.0)
    a, b = whole[::-1, ::-1][:8, :6], whole[3:9, 5:25]
    product(a, b, out[2:10, 4:24])
    assert np.array_equal(out[2:10, 4:24], product(a.copy(), b.copy()))
    assert (out[:2] == 7).all()
    assert (out[10:] == 7).all()
    assert (out[:, :4] == 7).all()
    assert (out[:, 24:] == 7).all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_empty_products(shape):
    rows, steps, columns = shape
    found = product(np.ones((rows, steps)), np.ones((steps, columns)))
    assert np.array_equal(found, np.zeros((rows, columns)))


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        (np.ones((2, 3)), np.ones((4, 5)), None),
        (np.ones((2, 3)), np.ones((3, 5), np.float32), None),
        (np.ones((2, 3), np.int64), np.ones((3, 5), np.int64), None),
        (np.ones((2, 3)), np.ones((3, 5)), np.ones((2, 4))),
        (np.ones((2, 3)), np.ones((3, 5)), np.ones((5, 2)).T),
        (np.ones((2, 3)), np.ones((2, 3, 5)), None),
        (np.ones((1, 2, 3)), np.ones((2, 3, 5)), None),
    ],
)
def test_arrays_that_do_not_fit_are_refused(a, b, out):
    with pytest.raises(UsageError):
        product(a, b, out)
