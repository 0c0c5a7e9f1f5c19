import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.kernels import reference

EPS = 1e-5


def backward(kernels, x, gamma, grad):
    out = np.full_like(x, np.nan)
    kernels.layer_norm_backward(x, gamma, EPS, grad, out)
    return out


def random_case(seed, tokens, width, spread, offset):
    """(x, gamma, gradient of the output), float32."""
    rng = np.random.default_rng(seed)
    x = (spread * (rng.standard_normal((tokens, width)) + offset)).astype(np.float32)
    gamma = rng.standard_normal(width, np.float32)
    return x, gamma, rng.standard_normal((tokens, width), np.float32)


CASES = {
    "seed": st.integers(0, 1000),
    "tokens": st.integers(1, 9),
    "width": st.integers(1, 200),
    "spread": st.sampled_from([1e-3, 1.0, 1e3]),
    "offset": st.sampled_from([0.0, 10.0]),
}


@given(**CASES)
def test_equals_the_float64_function(fast, seed, tokens, width, spread, offset):
    x, gamma, _ = random_case(seed, tokens, width, spread, offset)
    beta = np.random.default_rng(seed).standard_normal(width, np.float32)
    out, expected = np.empty_like(x), np.empty(x.shape)
    fast.layer_norm(x, gamma, beta, EPS, out)
    reference.layer_norm(x.astype(np.float64), gamma, beta, EPS, expected)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


def test_equal_inputs_give_beta(fast):
    x, out = np.full((2, 70), 3.5, np.float32), np.empty((2, 70), np.float32)
    beta = np.linspace(-1, 1, 70, dtype=np.float32)
    fast.layer_norm(x, np.ones(70, np.float32), beta, EPS, out)
    np.testing.assert_array_equal(out, np.stack([beta, beta]))


def test_input_is_left_alone(fast):
    x = np.random.default_rng(0).standard_normal((3, 20), np.float32)
    before, one = x.copy(), np.ones(20, np.float32)
    fast.layer_norm(x, one, one, EPS, np.empty_like(x))
    np.testing.assert_array_equal(x, before)


@given(seed=st.integers(0, 1000), tokens=st.integers(1, 4), width=st.integers(1, 50))
def test_the_float64_gradient_equals_central_differences(seed, tokens, width):
    """Along a random change of x, of the sum of outputs times `grad`."""
    x, gamma, grad = (part.astype(np.float64) for part in random_case(seed, tokens, width, 1, 0))
    change, beta = np.random.default_rng(seed + 1).standard_normal(x.shape), np.zeros(width)

    def objective(step):
        out = np.empty_like(x)
        reference.layer_norm(x + step * change, gamma, beta, EPS, out)
        return np.sum(out * grad)

    step = 1e-6
    expected = (objective(step) - objective(-step)) / (2 * step)
    found = np.sum(backward(reference, x, gamma, grad) * change)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(**CASES)
def test_the_gradient_equals_that_in_float64(fast, seed, tokens, width, spread, offset):
    case = random_case(seed, tokens, width, spread, offset)
    expected = backward(reference, *(part.astype(np.float64) for part in case))
    # The scale of a token's gradient is rstd, and x - mean loses what the offset takes.
    rstd = 1 / np.sqrt(case[0].var(axis=-1, keepdims=True, dtype=np.float64) + EPS)
    assert (np.abs(backward(fast, *case) - expected) <= 3e-4 * rstd).all()


@pytest.mark.parametrize("value", [0.0, 3.5, -1e4])
def test_equal_inputs_have_a_finite_gradient(fast, value):
    """Of deviations from the mean only, times 1 / sqrt(eps)."""
    x, grad = np.full((2, 64), value, np.float32), np.ones((2, 64), np.float32)
    grad[:, ::2] = 3
    found = backward(fast, x, np.ones(64, np.float32), grad)
    expected = np.where(np.arange(64) % 2, -1, 1) / np.sqrt(EPS)
    np.testing.assert_allclose(found, np.stack([expected, expected]), rtol=1e-5)


@pytest.mark.parametrize("outlier", [1e4, -1e4, 1e15])
def test_outliers_leave_the_gradient_finite(fast, outlier):
    x, gamma, grad = random_case(0, 3, 40, 1.0, 0.0)
    x[:, 7] = outlier
    found = backward(fast, x, gamma, grad)
    expected = backward(reference, *(part.astype(np.float64) for part in (x, gamma, grad)))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_gradient_s_inputs_are_left_alone(fast):
    case = random_case(0, 3, 20, 1.0, 0.0)
    before = [part.copy() for part in case]
    backward(fast, *case)
    for part, kept in zip(case, before, strict=True):
        np.testing.assert_array_equal(part, kept)
