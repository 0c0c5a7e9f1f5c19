from functools import partial
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.kernels import numpy_twins
from rbe_cli.kernels.activations import activation_call
from rbe_cli.model.config import Activation

NAMES = sorted(get_args(Activation))
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 40))
MODERATE = st.floats(-1e4, 1e4, width=32)
HUGE = np.array([[-3e38, -1e20, -0.0, 0.0, 1e20, 3e38, -1e-40, 1e-40]], np.float32)


def compiled(team, name):
    return partial(activation_call.activate, team, name)


def compiled_backward(team, name):
    return partial(activation_call.activate_backward, team, name)


def exact(name):
    return partial(numpy_twins.activate, name)


def exact_backward(name):
    return partial(numpy_twins.activate_backward, name)


def apply(kernel, x):
    out = x.copy()
    kernel(out)
    return out


def scale(kernel, x, grad):
    """grad times the derivative at x."""
    out, before = grad.copy(), x.copy()
    kernel(x, out)
    np.testing.assert_array_equal(x, before)
    return out


@pytest.mark.parametrize("name", NAMES)
@given(x=arrays(np.float32, SHAPES, elements=MODERATE))
def test_equals_the_float64_function(team, name, x):
    expected = apply(exact(name), x.astype(np.float64))
    actual = apply(compiled(team, name), x)
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_extremes_stay_finite(team, name):
    np.testing.assert_allclose(
        apply(compiled(team, name), HUGE), np.maximum(HUGE, 0), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_not_hidden(team, name):
    x = np.array([[np.nan, 1.0]], np.float32)
    assert np.isnan(apply(compiled(team, name), x)[0, 0])


@pytest.mark.parametrize("name", NAMES)
@given(x=arrays(np.float64, SHAPES, elements=st.floats(-30, 30)))
def test_the_float64_derivative_equals_central_differences(name, x):
    """But for relu's within a step of its corner."""
    step = 1e-5
    if name == "relu":
        x = x[np.abs(x) > step][None]
    forward = exact(name)
    expected = (apply(forward, x + step) - apply(forward, x - step)) / (2 * step)
    actual = scale(exact_backward(name), x, np.ones_like(x))
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@given(x=arrays(np.float32, SHAPES, elements=MODERATE), seed=st.integers(0, 99))
def test_the_derivative_equals_that_in_float64(team, name, x, seed):
    grad = np.random.default_rng(seed).standard_normal(x.shape, np.float32)
    expected = scale(exact_backward(name), x.astype(np.float64), grad.astype(np.float64))
    actual = scale(compiled_backward(team, name), x, grad)
    # 1 - gate has a rounding error of 6e-8, which x and the argument's slope enlarge.
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_far_out_are_those_of_the_asymptotes(team, name):
    x = np.array([[-1e18, -1e10, -1e4, 1e4, 1e10, 1e18]], np.float32)
    slope = scale(compiled_backward(team, name), x, np.ones_like(x))
    np.testing.assert_allclose(slope, [[0, 0, 0, 1, 1, 1]], atol=1e-6)
    assert np.isfinite(scale(compiled_backward(team, name), HUGE, np.ones_like(HUGE))).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_derivative_at_zero(team, name):
    slope = scale(compiled_backward(team, name), np.zeros((1, 2), np.float32), HUGE[:, 4:6])
    expected = HUGE[:, 4:6] * (0 if name == "relu" else 0.5)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"relu"}))
def test_nan_is_not_hidden_by_the_derivative(team, name):
    x = np.array([[np.nan, 1.0]], np.float32)
    slope = scale(compiled_backward(team, name), x, np.ones_like(x))
    assert np.isnan(slope).tolist() == [[True, False]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 15, 17, 1 << 16])
def test_threads_and_the_end_of_an_array_do_not_matter(fast, fast_2, name, size):
    """Each element by itself, whatever lies beside it."""
    rng = np.random.default_rng(size)
    x, grad = rng.standard_normal((2, 1, size), np.float32)
    one, two = (partial(kernels.activate, name) for kernels in (fast, fast_2))
    np.testing.assert_array_equal(apply(one, x), apply(two, x))
    np.testing.assert_array_equal(apply(one, x)[:, -1:], apply(one, x[:, -1:]))
    one, two = (partial(kernels.activate_backward, name) for kernels in (fast, fast_2))
    np.testing.assert_array_equal(scale(one, x, grad), scale(two, x, grad))
    last = scale(one, x[:, -1:].copy(), grad[:, -1:])
    np.testing.assert_array_equal(scale(one, x, grad)[:, -1:], last)
