import numpy as np
import pytest
from small_layers import random_input
from small_models import relative_error

from rbe_cli.codec.registry import CODECS
from rbe_cli.errors import UsageError
from rbe_cli.nn.gradients import Gradients
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.layer_norm_parameters import CompressedVector, compressed_vector

EPS = 1e-5


def expected(x, gamma, beta, axes):
    exact = x.astype(np.float64)
    centred = exact - exact.mean(axis=axes, keepdims=True)
    return centred / np.sqrt(exact.var(axis=axes, keepdims=True) + EPS) * gamma + beta


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (1,), (40, 41)])
def test_any_shape_is_normalised(kernels, shape):
    x, gamma, beta = random_input(2, 3, *shape), random_input(*shape), random_input(*shape, seed=1)
    norm = LayerNorm("ln", gamma.shape, kernels, gamma=gamma, beta=beta, eps=EPS)
    axes = tuple(range(2, x.ndim))
    np.testing.assert_allclose(norm(x), expected(x, gamma, beta, axes), atol=1e-5)
    grad = norm.backward(x, random_input(*x.shape, seed=2))
    assert grad.shape == x.shape


@pytest.mark.parametrize("variant", ["fused", "standard", "mixed"])
def test_variants_agree(kernels, variant):
    x, gamma, beta = random_input(4, 9, 50), random_input(50), random_input(50, seed=1)
    out = LayerNorm("ln", 50, kernels, gamma=gamma, beta=beta, variant=variant)(x)
    assert out.dtype == (np.float16 if variant == "mixed" else np.float32)
    tolerance = 2e-3 if variant == "mixed" else 1e-6
    assert relative_error(out, expected(x, gamma, beta, -1)) < tolerance


@pytest.mark.parametrize("variant", ["fused", "standard", "mixed"])
def test_cached_statistics_change_no_gradient(kernels, variant):
    x, gamma, grad = random_input(4, 9, 50), random_input(50), random_input(4, 9, 50, seed=1)
    norm = LayerNorm("ln.weight", 50, kernels, gamma=gamma, beta=0.5, variant=variant)
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
    norm = LayerNorm("ln.weight", 30, kernels, gamma=gamma, beta=beta, variant=variant)
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
    scalar = LayerNorm("ln.weight", 20, kernels, gamma=2.0, beta=-1.0)
    full = np.full(20, 1, np.float32)
    vector = LayerNorm("ln.weight", 20, kernels, gamma=2 * full, beta=-full)
    np.testing.assert_array_equal(scalar(x), vector(x))
    one, many = Gradients(), Gradients()
    np.testing.assert_array_equal(scalar.backward(x, grad, one), vector.backward(x, grad, many))
    for name, own in one.sums.items():
        np.testing.assert_allclose(own, [many.sums[name].sum()], rtol=1e-5)


def test_default_parameters_change_nothing(kernels):
    x = random_input(2, 3, 4, 5)
    norm = LayerNorm("ln", (4, 5), kernels)
    np.testing.assert_array_equal(norm.gamma, np.ones((4, 5), np.float32))
    np.testing.assert_array_equal(norm.beta, np.zeros((4, 5), np.float32))
    assert norm.eps == 1e-5
    np.testing.assert_allclose(norm(x), expected(x, 1, 0, (2, 3)), atol=1e-6)


def test_extreme_values_are_normalised(kernels):
    """The design's own test of numerical stability."""
    x = 0.1 * np.sin(np.arange(8 * 768, dtype=np.float32)).reshape(8, 768)
    x[0, :100], x[1, :100] = 1e6, 1e-6
    out = LayerNorm("ln", 768, kernels)(x).astype(np.float64)
    np.testing.assert_allclose(out.mean(axis=-1), 0, atol=1e-5)
    spread = x.astype(np.float64).var(axis=-1)
    np.testing.assert_allclose(out.var(axis=-1), spread / (spread + EPS), atol=1e-4)


@pytest.mark.parametrize("max_error", [1e-2, 1e-3, 5e-5])
def test_compressed_parameters_keep_the_bound(kernels, max_error):
    rng = np.random.default_rng(3)
    gamma, beta = (1 + 0.1 * rng.standard_normal((2, 4096))).astype(np.float32)
    x = random_input(3, 4096)
    norm = LayerNorm("ln", 4096, kernels, gamma=gamma, beta=beta)
    before, held = norm(x), norm.memory_usage()
    found = norm.compress_parameters(max_error)
    assert isinstance(norm.gamma, CompressedVector)
    assert isinstance(norm.beta, CompressedVector)
    errors = [
        np.abs(own.astype(np.float64) - new.values).max()
        for own, new in ((gamma, norm.gamma), (beta, norm.beta))
    ]
    assert found.largest_error == max(errors)
    assert 0.5 * max_error < found.largest_error <= max_error
    sizes = len(norm.gamma.data), len(norm.beta.data)
    assert (found.gamma_bytes, found.beta_bytes) == sizes
    assert found.gamma_ratio == 4 * 4096 / sizes[0]
    assert found.beta_ratio == 4 * 4096 / sizes[1]
    assert found.ratio == 8 * 4096 / sum(sizes)
    assert found.saved_bytes == 8 * 4096 - sum(sizes)
    usage = norm.memory_usage()
    assert held.parameter_bytes - usage.parameter_bytes == found.saved_bytes > 0
    error = np.abs(norm(x) - before)
    assert 0 < error.max() < 1.1 * max_error * (1 + np.abs(x).max() * 1.1)


def test_compression_meets_the_design_s_error(kernels):
    """Its own threshold: an error of the output under 1e-4, with memory saved."""
    rng = np.random.default_rng(4)
    gamma, beta = 1 + 0.1 * rng.standard_normal(4096), 0.1 * rng.standard_normal(4096)
    vectors = {"gamma": gamma.astype(np.float32), "beta": beta.astype(np.float32)}
    for parameters in ({}, vectors):
        norm = LayerNorm("ln", 4096, kernels, **parameters)
        x, before = random_input(16, 8, 4096), norm.memory_usage()
        exact = norm(x)
        found = norm.compress_parameters(5e-5)
        assert relative_error(norm(x), exact) < 1e-4
        assert norm.memory_usage().parameter_bytes < before.parameter_bytes / 2
        assert found.saved_bytes > 4 * 4096
        if not parameters:  # all ones, all zeros
            assert found.gamma_bytes == found.beta_bytes == 4
            assert found.largest_error == 0


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("max_error", [1e-40, 1e-9, 1e-3, 1.0, 1e38])
def test_no_value_errs_more_than_was_allowed(scale, max_error):
    values = (scale * np.random.default_rng(5).standard_normal((3, 50))).astype(np.float32)
    found = compressed_vector(values, max_error)
    assert found.values.shape == (3, 50)
    assert np.abs(found.values.astype(np.float64) - values).max() <= max_error
    assert found.nbytes <= values.nbytes


def test_float16_is_taken_only_within_the_bound():
    """Between 1 and 2, float16 errs by up to 2 ** -11."""
    values = np.random.default_rng(6).uniform(1, 2, 40).astype(np.float32)
    for max_error in (2.0**-11, 2.0**-12):
        found = compressed_vector(values, max_error)
        assert np.abs(found.values - values).max() <= max_error
        assert found.codec != "float16" or max_error == 2.0**-11
    halves = values.astype(np.float16).astype(np.float32)
    assert compressed_vector(halves, 1e-9).codec == "float16"


@pytest.mark.parametrize("max_error", [0.0, -1.0, np.nan, np.inf])
def test_a_bound_must_be_positive(kernels, max_error):
    norm = LayerNorm("ln", 5, kernels)
    with pytest.raises(UsageError, match="max_error must be a positive number, and is"):
        norm.compress_parameters(max_error)


def test_infinite_parameters_are_not_compressed(kernels):
    norm = LayerNorm("ln", 2, kernels, gamma=np.array([1, np.inf], np.float32))
    with pytest.raises(UsageError, match="NaN or infinite"):
        norm.compress_parameters(0.1)


def test_compressed_parameters_are_decoded_once(kernels, monkeypatch):
    gamma, beta = (
        compressed_vector(1 + 0.1 * random_input(64, seed=seed), 1e-2) for seed in (0, 1)
    )
    decoded, codec = [], type(CODECS["coded"])
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda *given: decoded.append(given) or decode(*given))
    assert gamma.codec == beta.codec == "coded"
    norm = LayerNorm("ln", 64, kernels, gamma=gamma, beta=beta)
    assert decoded == []
    assert norm.memory_usage().decoded_bytes == 0
    x = random_input(3, 64)
    for _ in range(3):
        norm(x)
        norm.backward(x, x)
    assert len(decoded) == 2
    assert (norm.gamma, norm.beta) == (gamma, beta)
    usage = norm.memory_usage()
    assert usage.parameter_bytes == gamma.nbytes + beta.nbytes < usage.float32_bytes
    assert (usage.float32_bytes, usage.decoded_bytes) == (8 * 64, 8 * 64)


def test_other_parameters_take_effect(kernels):
    x = random_input(3, 20)
    norm = LayerNorm("ln", 20, kernels)
    plain = norm(x)
    norm.gamma = 2.0
    np.testing.assert_allclose(norm(x), 2 * plain, rtol=1e-6)
    norm.beta = random_input(20)
    np.testing.assert_allclose(norm(x), 2 * plain + random_input(20), rtol=1e-5, atol=1e-6)
    assert isinstance(norm.beta, np.ndarray)
    norm.beta[3] += 1
    assert norm(x)[0, 3] == pytest.approx(2 * plain[0, 3] + random_input(20)[3] + 1, rel=1e-5)
    norm.eps = 10.0
    assert np.abs(norm(x) - norm.beta).max() < np.abs(plain).max()


def test_memory_of_parameters_is_counted(kernels):
    dense = LayerNorm("ln", 100, kernels).memory_usage()
    assert (dense.parameter_bytes, dense.float32_bytes, dense.ratio) == (800, 800, 1)
    scalar = LayerNorm("ln", 100, kernels, gamma=1.0, beta=0.0).memory_usage()
    assert (scalar.parameter_bytes, scalar.ratio) == (8, 100)


def test_wrong_shapes_state_both(kernels):
    norm = LayerNorm("ln", (3, 4), kernels)
    x = random_input(2, 3, 4)
    wrong = [
        (lambda: norm(random_input(2, 4, 3)), r"ln: the input .*\[2, 4, 3\].*\[\.\.\., 3, 4\]"),
        (lambda: norm(random_input(4)), r"ln: the input .*\[4\].*\[\.\.\., 3, 4\]"),
        (lambda: norm(x, np.empty((3, 2))), r"statistics .*\[3, 2\].*\[2, 2\]"),
        (lambda: norm.backward(x[0, 0], x), r"the input .*\[4\].*\[\.\.\., 3, 4\]"),
        (lambda: norm.backward(x, x[:1]), r"gradient .*\[1, 3, 4\].*\[2, 3, 4\]"),
        (lambda: LayerNorm("ln", 4, kernels, gamma=x), r"ln: gamma .*\[2, 3, 4\].*\[4\]"),
        (lambda: LayerNorm("ln", 4, kernels, beta=x[0, 0, :3]), r"ln: beta .*\[3\].*\[4\]"),
        (lambda: setattr(norm, "beta", x), r"ln: beta .*\[2, 3, 4\].*\[3, 4\]"),
        (lambda: LayerNorm("ln", (), kernels), r"cannot have the shape \[\]"),
        (lambda: LayerNorm("ln", 0, kernels), r"cannot have the shape \[0\]"),
    ]
    for call, message in wrong:
        with pytest.raises(UsageError, match=message):
            call()


def test_the_bound_holds_for_float64_too():
    values = 1 + 0.1 * np.random.default_rng(7).standard_normal(100)
    for max_error in (1e-3, 1e-6, 1e-7):
        found = compressed_vector(values, max_error)
        assert np.abs(found.values - values).max() <= max_error
    with pytest.raises(UsageError, match=r"float32 alone moves a value by .* max_error is 1e-09"):
        compressed_vector(values, 1e-9)
    with pytest.raises(UsageError, match="float32 alone moves a value by inf"):
        compressed_vector(np.array([1e300]), 1.0)


def test_float64_may_be_assigned(kernels):
    """Compiled kernels compute in float32, numpy in float64 where the parameters are."""
    gamma = 1 + 0.1 * np.random.default_rng(8).standard_normal(20)
    norm, x = LayerNorm("ln", 20, kernels), random_input(3, 20)
    norm.gamma, norm.beta = gamma, np.arange(20.0)
    assert norm.norm.gamma.dtype == (np.float32 if kernels.engine == "fast" else np.float64)
    np.testing.assert_allclose(norm(x), expected(x, gamma, np.arange(20), -1), rtol=1e-5)
