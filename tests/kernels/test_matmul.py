import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.codec import panels
from rbe_cli.codec.panels import BENT_4, EVEN_2, INTEGERS_4, NO_LEVELS
from rbe_cli.kernels.panel import PanelMatrix
from rbe_cli.kernels.table import load_kernels

FORMS = ["2 bits", "4 bits", "int4", "int8", "int16"]


def random_matrix(rng, rows, columns, form):
    """Random in its values, steps and padding."""
    levels = {"2 bits": EVEN_2, "4 bits": BENT_4, "int4": INTEGERS_4}.get(form, NO_LEVELS)
    dtype = {"int8": np.int8, "int16": np.int16}.get(form, np.uint8)
    bits = panels.bits_of(np.zeros(1, dtype), levels)
    limits = np.iinfo(dtype)
    shape = panels.panel_shape((rows, columns), bits)
    values = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    row_steps = rng.uniform(0.5, 2.0, rows).astype(np.float32)
    column_steps = rng.uniform(0.5, 2.0, columns).astype(np.float32)
    return PanelMatrix(values, levels, row_steps, column_steps, (rows, columns))


def multiply(kernels, x, matrix, bias):
    out = np.full((len(x), matrix.shape[1]), np.nan, np.float32)
    steps = matrix.row_steps, matrix.column_steps
    kernels.matmul(x, matrix.values, matrix.levels, *steps, bias, out)
    return out


def assert_exact_to_rounding(actual, x, matrix, bias):
    """A float32 sum of K products errs by at most (K + a few) roundings of their magnitudes."""
    weights = matrix.unscaled().astype(np.float64) * matrix.column_steps
    weights *= matrix.row_steps[:, None].astype(np.float64)
    expected = x.astype(np.float64) @ weights + bias
    magnitude = np.abs(x).astype(np.float64) @ np.abs(weights)
    bound = (matrix.shape[0] + 4) * 2.0**-24 * (magnitude + np.abs(bias)) + 1e-37
    assert (np.abs(actual - expected) <= bound).all()


@given(
    seed=st.integers(0, 1000),
    tokens=st.integers(1, 70),
    rows=st.integers(1, 150),
    columns=st.integers(1, 150),
    form=st.sampled_from(FORMS),
    exponent=st.integers(-30, 30),
)
def test_equals_the_float64_product(fast, seed, tokens, rows, columns, form, exponent):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, rows, columns, form)
    x = np.float32(10.0**exponent) * rng.standard_normal((tokens, rows), np.float32)
    bias = rng.standard_normal(columns, np.float32)
    assert_exact_to_rounding(multiply(fast, x, matrix, bias), x, matrix, bias)


@pytest.mark.parametrize("form", FORMS)
def test_twins_agree(fast, form):
    rng = np.random.default_rng(1)
    matrix = random_matrix(rng, 75, 131, form)
    x, bias = rng.standard_normal((7, 75), np.float32), rng.standard_normal(131, np.float32)
    expected = multiply(load_kernels("reference"), x, matrix, bias)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(multiply(fast, x, matrix, bias), expected, atol=1e-6 * largest)


@pytest.mark.parametrize("form", FORMS)
def test_result_does_not_depend_on_threads(fast, fast_2, form):
    rng = np.random.default_rng(2)
    matrix = random_matrix(rng, 200, 1000, form)
    bias = rng.standard_normal(1000, np.float32)
    for tokens in (1, 70):
        x = rng.standard_normal((tokens, 200), np.float32)
        np.testing.assert_array_equal(
            multiply(fast, x, matrix, bias), multiply(fast_2, x, matrix, bias)
        )


@pytest.mark.parametrize("form", FORMS)
def test_a_token_does_not_depend_on_the_others(fast, form):
    rng = np.random.default_rng(3)
    matrix = random_matrix(rng, 203, 130, form)
    x, bias = rng.standard_normal((67, 203), np.float32), rng.standard_normal(130, np.float32)
    together = multiply(fast, x, matrix, bias)
    for tokens in (1, 2, 5, 66):
        np.testing.assert_array_equal(multiply(fast, x[:tokens], matrix, bias), together[:tokens])


def test_two_python_threads_at_once(fast_2):
    rng = np.random.default_rng(4)
    matrix = random_matrix(rng, 128, 640, "int8")
    bias = np.zeros(640, np.float32)
    inputs = [rng.standard_normal((8, 128), np.float32) for _ in range(2)]
    expected = [multiply(fast_2, x, matrix, bias) for x in inputs]
    equal = [False, False]

    def work(i):
        equal[i] = all(
            np.array_equal(multiply(fast_2, inputs[i], matrix, bias), expected[i])
            for _ in range(10)
        )

    workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert equal == [True, True]
