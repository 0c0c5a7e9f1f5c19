import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.kernels import reference
from rbe_cli.kernels.panel import PanelMatrix

LARGEST = [7, 127, 20000]  # packed, int8, int16


def random_matrix(rng, rows, columns, largest):
    integers = rng.integers(-largest, largest + 1, (rows, columns)).astype(np.int16)
    steps = rng.uniform(0.5, 2.0, columns).astype(np.float32) / largest
    return PanelMatrix.from_blocks((rows, columns), [(slice(0, columns), integers, steps)])


def multiply(kernels, x, matrix, bias):
    out = np.full((len(x), matrix.shape[1]), np.nan, np.float32)
    kernels.matmul(x, matrix.values, matrix.column_steps, bias, out)
    return out


def assert_exact_to_rounding(actual, x, matrix, bias):
    """A float32 sum of K products errs by at most (K + a few) roundings of their magnitudes."""
    expected = np.empty(actual.shape)
    steps = matrix.column_steps.astype(np.float64)
    reference.matmul(x.astype(np.float64), matrix.values, steps, bias, expected)
    magnitude = np.abs(x).astype(np.float64) @ np.abs(steps * matrix.integers())
    bound = (matrix.shape[0] + 4) * 2.0**-24 * (magnitude + np.abs(bias)) + 1e-37
    assert (np.abs(actual - expected) <= bound).all()


@given(
    seed=st.integers(0, 1000),
    tokens=st.integers(1, 70),
    rows=st.integers(1, 150),
    columns=st.integers(1, 150),
    largest=st.sampled_from(LARGEST),
    exponent=st.integers(-30, 30),
)
def test_equals_the_float64_product(fast, seed, tokens, rows, columns, largest, exponent):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, rows, columns, largest)
    x = np.float32(10.0**exponent) * rng.standard_normal((tokens, rows), np.float32)
    bias = rng.standard_normal(columns, np.float32)
    assert_exact_to_rounding(multiply(fast, x, matrix, bias), x, matrix, bias)


@pytest.mark.parametrize("largest", LARGEST)
def test_twins_agree(fast, largest):
    rng = np.random.default_rng(1)
    matrix = random_matrix(rng, 75, 131, largest)
    x, bias = rng.standard_normal((7, 75), np.float32), rng.standard_normal(131, np.float32)
    expected = np.empty((7, 131), np.float32)
    reference.matmul(x, matrix.values, matrix.column_steps, bias, expected)
    np.testing.assert_allclose(multiply(fast, x, matrix, bias), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("largest", LARGEST)
def test_result_does_not_depend_on_threads(fast, fast_2, largest):
    rng = np.random.default_rng(2)
    matrix = random_matrix(rng, 200, 1000, largest)
    bias = rng.standard_normal(1000, np.float32)
    for tokens in (1, 70):
        x = rng.standard_normal((tokens, 200), np.float32)
        np.testing.assert_array_equal(
            multiply(fast, x, matrix, bias), multiply(fast_2, x, matrix, bias)
        )


@pytest.mark.parametrize("largest", LARGEST)
def test_a_token_does_not_depend_on_the_others(fast, largest):
    rng = np.random.default_rng(3)
    matrix = random_matrix(rng, 203, 130, largest)
    x, bias = rng.standard_normal((67, 203), np.float32), rng.standard_normal(130, np.float32)
    together = multiply(fast, x, matrix, bias)
    for tokens in (1, 2, 5, 66):
        np.testing.assert_array_equal(multiply(fast, x[:tokens], matrix, bias), together[:tokens])


def test_two_python_threads_at_once(fast_2):
    rng = np.random.default_rng(4)
    matrix = random_matrix(rng, 128, 640, 127)
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
