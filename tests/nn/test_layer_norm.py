import numpy as np
import pytest
from small_layers import random_input
from small_models import relative_error

from rbe_cli.errors import UsageError
from rbe_cli.nn.gradients import Gradients
from rbe_cli.nn.layer_norm_layer import CompressedVector, LayerNorm

EPS = 1e-5


def expected(x, gamma, beta, axes):
    exact = x.astype(np.float64)
    centred = exact - exact.mean(axis=axes, keepdims=True)
    return centred / np.sqrt(exact.var(axis=axes, keepdims=True) + EPS) * gamma + beta


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (1,), (40, 41)])
def test_any_shape_is_normalised(kernels, shape):
    x, gamma, beta = random_input(2, 3, *shape), random_input(*shape), random_input(*shape, seed=1)
    norm = LayerNorm("ln", gamma, beta, EPS, kernels)
    axes = tuple(range(2, x.ndim))
    np.testing.assert_allclose(norm(x), expected(x, gamma, beta, axes), atol=1e-5)
    grad = norm.backward(x, random_input(*x.shape, seed=2))
    assert grad.shape == x.shape


@pytest.mark.parametrize("variant", ["fused", "standard", "mixed"])
def test_variants_agree(kernels, variant):
    x, gamma, beta = random_input(4, 9, 50), random_input(50), random_input(50, seed=1)
    out = LayerNorm("ln", gamma, beta, EPS, kernels, variant=variant)(x)
    assert out.dtype == (np.float16 if variant == "mixed" else np.float32)
    tolerance = 2e-3 if variant == "mixed" else 1e-6
    assert relative_error(out, expected(x, gamma, beta, -1)) < tolerance


@pytest.mark.parametrize("variant", ["fused", "standard", "mixed"])
def test_cached_statistics_change_no_gradient(kernels, variant):
    x, gamma, grad = random_input(4, 9, 50), random_input(50), random_input(4, 9, 50, seed=1)
    norm = LayerNorm("ln.weight", gamma, 0.5, EPS, kernels, variant=variant)
    statistics, found = np.empty((36, 2)), []
    norm(x, statistics)
    for kept in (None, statistics):
        gradients = Gradients()
        found.append((norm.backward(x, grad, gradients, kept), gradients.sums))
    (first, sums), (second, same) = found
    np.testing.assert_array_equal(first, second)
    assert sums.keys() == same.keys() == {"ln.weight", "ln.bias"}
    for name in sums:
        np.testing.assert_array_equal(sums[name], same[name])


@pytest.mark.parametrize("variant", ["fused", "standard", "mixed"])
def test_gradients_of_all_variants_equal_central_differences(kernels, variant):
    rng = np.random.default_rng(5)
    x, grad = rng.standard_normal((2, 6, 30))
    gamma, beta = rng.standard_normal((2, 30))
    if variant == "mixed":
        x = x.astype(np.float16).astype(np.float64)
    norm = LayerNorm("ln.weight", gamma, beta, EPS, kernels, variant=variant)
    norm.gamma, norm.beta = (own.astype(np.float32) for own in (gamma, beta))
    gradients = Gradients()
    found = norm.backward(x.astype(np.float32), grad.astype(np.float32), gradients)
    values = {"x": x, "ln.weight": gamma, "ln.bias": beta}
    for name, own in {"x": found, **gradients.sums}.items():
        change, step = rng.standard_normal(values[name].shape), 1e-6
        sides = []
        for sign in (1, -1):
            moved = values | {name: values[name] + sign * step * change}
            sides.append(np.sum(expected(*moved.values(), -1) * grad))
        difference = (sides[0] - sides[1]) / (2 * step)
        assert np.sum(own * change) == pytest.approx(difference, rel=1e-3)


def test_scalar_parameters_stand_for_vectors(kernels):
    x, grad = random_input(3, 20), random_input(3, 20, seed=1)
    scalar = LayerNorm("ln.weight", 2.0, -1.0, EPS, kernels, shape=(20,))
    vector = LayerNorm(
        "ln.weight", np.full(20, 2, np.float32), np.full(20, -1, np.float32), EPS, kernels
    )
    np.testing.assert_array_equal(scalar(x), vector(x))
    one, many = Gradients(), Gradients()
    np.testing.assert_array_equal(scalar.backward(x, grad, one), vector.backward(x, grad, many))
    for name, own in one.sums.items():
        np.testing.assert_allclose(own, [many.sums[name].sum()], rtol=1e-5)


def test_parameters_can_be_compressed(kernels):
    rng = np.random.default_rng(3)
    gamma, beta = (1 + 0.1 * rng.standard_normal((2, 4096))).astype(np.float32)
    x = random_input(3, 4096)
    norm = LayerNorm("ln", gamma, beta, EPS, kernels)
    before = norm(x)
    found = norm.compress_parameters(0.01)
    assert isinstance(norm.gamma, CompressedVector)
    assert isinstance(norm.beta, CompressedVector)
    assert found.original_bytes == 2 * 4 * 4096
    assert found.gamma_bytes == len(norm.gamma.data)
    assert 5 < found.ratio < 8
    assert 0.004 < found.largest_error <= 0.00501
    error = np.abs(norm(x) - before)
    assert 0 < error.max() < 0.00501 * (1 + np.abs(x).max() * 1.1)
    assert norm.compress_parameters(1e-5).largest_error <= 2**-11  # float16, which is smaller


def test_parameters_of_another_shape_are_refused(kernels):
    with pytest.raises(UsageError, match="do not have the shape"):
        LayerNorm("ln", np.ones(3, np.float32), np.ones(4, np.float32), EPS, kernels)
