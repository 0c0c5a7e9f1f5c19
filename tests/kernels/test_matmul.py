"""The product of integers, against a numpy twin that rounds activations in the same way.

The twin's sums are exact, in int64; so are the kernels', so they may differ only in the few
roundings of float32 that follow.
"""

from functools import partial

import numpy as np
import pytest
from deadlines import run_together
from hypothesis import given
from hypothesis import strategies as st
from random_panels import FORMS, extreme_matrix, random_matrix

from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.kernels.linear.linear_call import matmul
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.thread_team import get_team

BY_FORM = pytest.mark.parametrize("form", FORMS)
SETS = st.sampled_from(available())


def multiply(team, x, matrix, bias, **options):
    out = np.full((len(x), matrix.shape[1]), np.nan, np.float32)
    matmul(team, x, matrix, bias, out, **options)
    return out


def twin(x, matrix, bias, limit=32512):
    """(x W + bias in float64, with activations rounded by groups; bound of float32's rounding)."""
    scaled = x * matrix.row_steps
    unscaled = matrix.unscaled().astype(np.float64) / matrix.unit
    integers = unscaled.astype(np.int64)
    np.testing.assert_array_equal(integers, unscaled)
    total = np.zeros((len(x), matrix.shape[1]))
    magnitude = np.zeros_like(total)
    for start in range(0, x.shape[1], 256):
        part = scaled[:, start : start + 256]
        top = np.abs(part).max(axis=1, keepdims=True)
        inverse = np.divide(np.float32(limit), top, out=np.zeros_like(top), where=top > 0)
        rounded = np.rint(part * inverse).astype(np.int64)
        product = (rounded @ integers[start : start + 256]) * (top / np.float32(limit))
        total += product
        magnitude += np.abs(rounded) @ np.abs(integers[start : start + 256]) * (top / limit)
    steps = np.float32(matrix.unit) * matrix.column_steps
    bound = 2.0**-21 * (magnitude * np.abs(steps) + np.abs(bias)) + 1e-37
    return total * steps + bias, bound


@given(
    seed=st.integers(0, 1000),
    tokens=st.integers(1, 20),
    rows=st.integers(1, 600),
    columns=st.integers(1, 70),
    form=st.sampled_from(FORMS),
    exponent=st.integers(-30, 30),
    instructions=SETS,
    takes_int8=st.booleans(),
)
def test_equals_the_twin(seed, tokens, rows, columns, form, exponent, instructions, takes_int8):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, rows, columns, form)
    x = np.float32(10.0**exponent) * rng.standard_normal((tokens, rows), np.float32)
    bias = rng.standard_normal(columns, np.float32)
    expected, bound = twin(x, matrix, bias, 127 if takes_int8 else 32512)
    found = multiply(get_team(1, instructions), x, matrix, bias, takes_int8=takes_int8)
    assert (np.abs(found - expected) <= bound).all()


@BY_FORM
@pytest.mark.parametrize("extreme", [1.0, -1.0])
@pytest.mark.parametrize("largest", [False, True], ids=["smallest", "largest"])
def test_the_largest_sums_do_not_overflow(form, largest, extreme):
    """All codes and all activations at their limits, over several groups."""
    matrix = extreme_matrix(1024, 16, form, largest=largest)
    assert form != "wide" or matrix.overflow.tiles.size == 1024 // 32
    x, bias = np.full((3, 1024), extreme, np.float32), np.zeros(16, np.float32)
    expected, bound = twin(x, matrix, bias)
    for instructions in available():
        found = multiply(get_team(1, instructions), x, matrix, bias)
        assert (np.abs(found - expected) <= bound).all()


@BY_FORM
def test_instruction_sets_give_the_same_bits(form):
    rng = np.random.default_rng(1)
    matrix = random_matrix(rng, 300, 131, form)
    x, bias = rng.standard_normal((9, 300), np.float32), rng.standard_normal(131, np.float32)
    expected = multiply(get_team(1, available()[-1]), x, matrix, bias)
    for instructions in available():
        found = multiply(get_team(1, instructions), x, matrix, bias)
        np.testing.assert_array_equal(found, expected)


@BY_FORM
def test_result_depends_neither_on_threads_nor_on_other_tokens(form):
    rng = np.random.default_rng(2)
    matrix = random_matrix(rng, 303, 1000, form)
    bias = rng.standard_normal(1000, np.float32)
    x = rng.standard_normal((70, 303), np.float32)
    together = multiply(get_team(1), x, matrix, bias)
    for tokens in (1, 2, 3, 5, 7, 70):
        for threads in (1, 2):
            found = multiply(get_team(threads), x[:tokens], matrix, bias)
            np.testing.assert_array_equal(found, together[:tokens])


@BY_FORM
def test_rounding_activations_errs_by_less_than_a_thousandth(form):
    """Against the exact float32 product, even beside outliers a thousand times as large."""
    rng = np.random.default_rng(3)
    matrix = random_matrix(rng, 768, 200, form)
    x, bias = rng.standard_normal((5, 768), np.float32), np.zeros(200, np.float32)
    x[:, [7, 400]] *= 1000
    exact = np.empty((5, 200), np.float32)
    load_kernels("reference").matmul(x, matrix, bias, exact)
    error = np.linalg.norm(multiply(get_team(1), x, matrix, bias) - exact)
    assert error < 1e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-38, 1e-35, 1e-33, 1e33])
def test_any_size_of_activations(size):
    matrix = random_matrix(np.random.default_rng(7), 100, 20, "int8")
    x = np.float32(size) * np.random.default_rng(8).standard_normal((3, 100)).astype(np.float32)
    found = multiply(get_team(1), x, matrix, np.zeros(20, np.float32))
    expected = x.astype(np.float64) * matrix.row_steps @ (matrix.unscaled() * matrix.column_steps)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max() + 1e-29


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tokens", [1, 4])
def test_what_is_not_finite_is_not_hidden(poison, tokens):
    matrix = random_matrix(np.random.default_rng(4), 100, 20, "int8")
    x = np.ones((tokens, 100), np.float32)
    x[0, 50] = poison
    found = multiply(get_team(1), x, matrix, np.zeros(20, np.float32))
    assert not np.isfinite(found[0]).any()
    assert np.isfinite(found[1:]).all()


def test_two_python_threads_at_once():
    rng = np.random.default_rng(5)
    matrix = random_matrix(rng, 128, 3000, "int8")
    bias, team = np.zeros(3000, np.float32), get_team(2)
    inputs = [rng.standard_normal((8, 128), np.float32) for _ in range(2)]
    expected = [multiply(team, x, matrix, bias) for x in inputs]
    equal = [False, False]

    def work(i):
        equal[i] = all(
            np.array_equal(multiply(team, inputs[i], matrix, bias), expected[i]) for _ in range(10)
        )

    run_together([partial(work, i) for i in range(2)])
    assert equal == [True, True]
