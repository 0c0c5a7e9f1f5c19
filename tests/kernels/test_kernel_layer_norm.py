import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.kernels import numpy_twins
from rbe_cli.kernels.layer_norm import layer_norm_call

EPS = 1e-5


def forward(team, x, gamma, beta, passes="fused"):
    """(output, statistics)."""
    out, statistics = np.full_like(x, np.nan), np.empty((len(x), 2))
    layer_norm_call.layer_norm(team, x, gamma, beta, EPS, out, statistics, passes)
    return out, statistics


def exact(x, gamma, beta):
    """The same in float64."""
    out, statistics = np.empty(x.shape), np.empty((len(x), 2))
    numpy_twins.layer_norm(x.astype(np.float64), gamma, beta, EPS, out, statistics)
    return out, statistics


def backward(team, x, gamma, grad):
    """Gradients of x, gamma and beta."""
    _, statistics = forward(team, x, gamma, np.zeros_like(gamma))
    out = np.full_like(x, np.nan)
    return out, *layer_norm_call.layer_norm_backward(team, x, statistics, gamma, grad, out)


def exact_backward(x, gamma, grad):
    """The same in float64."""
    x, grad = x.astype(np.float64), grad.astype(np.float64)
    _, statistics = exact(x, gamma, np.zeros_like(gamma))
    out = np.empty_like(x)
    return out, *numpy_twins.layer_norm_backward(x, statistics, gamma, grad, out)


def random_case(seed, tokens, width, spread, offset):
    """(x, gamma, gradient of the output), float32."""
    rng = np.random.default_rng(seed)
    x = (spread * (rng.standard_normal((tokens, width)) + offset)).astype(np.float32)
    gamma = rng.standard_normal(width, np.float32)
    return x, gamma, rng.standard_normal((tokens, width), np.float32)


CASES = {
    "seed": st.integers(0, 1000),
    "tokens": st.integers(1, 70),
    "width": st.integers(1, 200),
    "spread": st.sampled_from([1e-3, 1.0, 1e3]),
    "offset": st.sampled_from([0.0, 10.0, 1e5]),
}


@given(**CASES)
def test_equals_the_float64_function(team, seed, tokens, width, spread, offset):
    """Whatever offset float32 can hold a spread about: sums are exact."""
    x, gamma, _ = random_case(seed, tokens, width, spread, offset)
    beta = np.random.default_rng(seed).standard_normal(width, np.float32)
    expected, statistics = exact(x, gamma, beta)
    for passes in ("fused", "standard"):
        out, found = forward(team, x, gamma, beta, passes)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found, statistics, rtol=1e-6, atol=1e-6 * spread)


@given(**CASES)
def test_passes_give_the_same_bits(team, seed, tokens, width, spread, offset):
    x, gamma, beta = random_case(seed, tokens, width, spread, offset)
    for fused, standard in zip(
        forward(team, x, gamma, beta[0]), forward(team, x, gamma, beta[0], "standard"), strict=True
    ):
        np.testing.assert_array_equal(fused, standard)


@given(**CASES | {"spread": st.just(1.0), "offset": st.sampled_from([0.0, 10.0])})
def test_halfs_are_computed_as_floats_and_rounded_once(team, seed, tokens, width, spread, offset):
    x, gamma, _ = random_case(seed, tokens, width, spread, offset)
    halfs, beta = x.astype(np.float16), np.zeros_like(gamma)
    out, statistics = forward(team, halfs, gamma, beta)
    expected, same = forward(team, halfs.astype(np.float32), gamma, beta)
    np.testing.assert_array_equal(out, expected.astype(np.float16))
    np.testing.assert_array_equal(statistics, same)


@pytest.mark.parametrize("width", [64, 768, 1000])
def test_large_beside_small_values_are_normalised(team, width):
    """1e6 beside 1e-6: the result has the mean 0 and the variance 1."""
    rng = np.random.default_rng(width)
    x = rng.choice([1e6, 1e-6, -1e6, 0.1], (5, width)).astype(np.float32)
    x[1] = 1e6 + rng.standard_normal(width)
    x[2] = np.where(np.arange(width) < 3, 1e6, 1e-6)
    out, _ = forward(team, x, np.ones(width, np.float32), np.zeros(width, np.float32))
    np.testing.assert_allclose(out.mean(axis=1, dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(out.var(axis=1, dtype=np.float64), 1, atol=1e-4)


@pytest.mark.parametrize("width", [1000, 1001])
def test_large_results_equal_small_ones(team, width):
    """Whether they pass by the cache or not."""
    x, gamma, _ = random_case(4, 1100, width, 1.0, 0.5)
    out, _ = forward(team, x, gamma, gamma)
    for token in (0, 1, 549, 1098):
        few, _ = forward(team, x[token : token + 2].copy(), gamma, gamma)
        np.testing.assert_array_equal(out[token : token + 2], few)


def test_equal_inputs_give_beta(team):
    x, beta = np.full((2, 70), 3.1, np.float32), np.linspace(-1, 1, 70, dtype=np.float32)
    out, _ = forward(team, x, np.ones(70, np.float32), beta)
    np.testing.assert_array_equal(out, np.stack([beta, beta]))


def test_inputs_are_left_alone(team):
    case = random_case(0, 3, 20, 1.0, 0.0)
    before = [part.copy() for part in case]
    forward(team, case[0], case[1], case[1])
    backward(team, *case)
    for part, kept in zip(case, before, strict=True):
        np.testing.assert_array_equal(part, kept)


@given(seed=st.integers(0, 1000), tokens=st.integers(1, 4), width=st.integers(1, 50))
def test_the_float64_gradient_equals_central_differences(seed, tokens, width):
    """Along random changes of x, gamma and beta, of the sum of outputs times `grad`."""
    case = random_case(seed, tokens, width, 1, 0)
    x, gamma, grad = (part.astype(np.float64) for part in case)
    rng = np.random.default_rng(seed + 1)
    beta = rng.standard_normal(width)
    values = x, gamma, beta
    for index, found in enumerate(exact_backward(x, gamma, grad)):
        change, step = rng.standard_normal(values[index].shape), 1e-6

        def objective(sign, index=index, change=change, step=step):
            moved = [*values]
            moved[index] = moved[index] + sign * step * change
            return np.sum(exact(*moved)[0] * grad)

        expected = (objective(1) - objective(-1)) / (2 * step)
        assert np.sum(found * change) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(**CASES)
def test_the_gradient_equals_that_in_float64(team, seed, tokens, width, spread, offset):
    case = random_case(seed, tokens, width, spread, offset)
    found, expected = backward(team, *case), exact_backward(*case)
    # The scale of a token's gradient is rstd.
    rstd = 1 / np.sqrt(case[0].var(axis=-1, keepdims=True, dtype=np.float64) + EPS)
    assert (np.abs(found[0] - expected[0]) <= 1e-5 * rstd).all()
    for own, other in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=3e-5 * np.sqrt(tokens))


@pytest.mark.parametrize("shape", [(1, 5), (33, 100), (300, 333)])
def test_threads_do_not_matter(fast, fast_2, shape):
    x, gamma, grad = random_case(1, *shape, 1.0, 0.5)
    for one, two in zip(
        backward(fast.team, x, gamma, grad), backward(fast_2.team, x, gamma, grad), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    for passes in ("fused", "standard"):
        for one, two in zip(
            forward(fast.team, x, gamma, gamma, passes),
            forward(fast_2.team, x, gamma, gamma, passes),
            strict=True,
        ):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("value", [0.0, 3.5, -1e4])
def test_equal_inputs_have_a_finite_gradient(team, value):
    """Of deviations from the mean only, times 1 / sqrt(eps)."""
    x, grad = np.full((2, 64), value, np.float32), np.ones((2, 64), np.float32)
    grad[:, ::2] = 3
    found = backward(team, x, np.ones(64, np.float32), grad)[0]
    expected = np.where(np.arange(64) % 2, -1, 1) / np.sqrt(EPS)
    np.testing.assert_allclose(found, np.stack([expected, expected]), rtol=1e-5)


@pytest.mark.parametrize("outlier", [1e4, -1e4, 1e15])
def test_outliers_leave_the_gradient_finite(team, outlier):
    x, gamma, grad = random_case(0, 3, 40, 1.0, 0.0)
    x[:, 7] = outlier
    found, expected = backward(team, x, gamma, grad)[0], exact_backward(x, gamma, grad)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
