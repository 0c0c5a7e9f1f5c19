"""LayerNorm's kernels, in the simulator, beside numpy in float64."""

import numpy as np
import pytest
from device_arrays import on_device, poisoned
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st

from rbe_cli.cuda import device_layer_norm
from rbe_cli.errors import UsageError
from rbe_cli.kernels import numpy_twins

EPS = 1e-5
FEW_THREADS = 4  # of a row at most, so that 33 elements are too many for one pass


def forward(x, gamma, beta):
    """(output, statistics)."""
    out, statistics = poisoned(x.shape, x.dtype), poisoned((len(x), 2), np.float64)
    device_layer_norm.layer_norm(*on_device(x, gamma, beta), EPS, out, statistics)
    return out.copy_to_host(), statistics.copy_to_host()


def exact(x, gamma, beta):
    """The same in float64."""
    out, statistics = np.empty(x.shape), np.empty((len(x), 2))
    numpy_twins.layer_norm(x.astype(np.float64), gamma, beta, EPS, out, statistics)
    return out, statistics


def backward(x, gamma, grad):
    """Gradients of x, gamma and beta."""
    _, statistics = exact(x, gamma, gamma)
    found = [poisoned(x.shape, x.dtype), poisoned(gamma.shape), poisoned(gamma.shape)]
    device_layer_norm.layer_norm_backward(*on_device(x, statistics, gamma, grad), *found)
    return [own.copy_to_host() for own in found]


def random_case(seed, tokens, width, spread, offset):
    """(x, gamma, beta, gradient of the output), float32."""
    rng = np.random.default_rng(seed)
    x = (spread * (rng.standard_normal((tokens, width)) + offset)).astype(np.float32)
    gamma, beta = rng.standard_normal((2, width), np.float32)
    return x, gamma, beta, rng.standard_normal((tokens, width), np.float32)


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Let few rows share a block: the simulator takes a thread of Python for each of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_layer_norm, "_BLOCK_THREADS", 4)
        patch.setattr(device_layer_norm, "_COLUMN_THREADS", 16)
        yield


@pytest.fixture(scope="module", params=["one pass", "loop"])
def threads(request):
    """Let rows be as wide as a block takes in one pass, or wider."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "loop":
            for own in ("layer_norm", "layer_norm_backward"):
                for rows in ("rows", "wide_rows"):
                    run = getattr(device_layer_norm, f"{own}_{rows}")
                    patch.setattr(run, "most_threads", FEW_THREADS)
        yield request.param


CASES = {
    "seed": st.integers(0, 1000),
    "tokens": st.integers(1, 9),
    "width": st.integers(1, 80),
    "spread": st.sampled_from([1e-3, 1.0, 1e3]),
    "offset": st.sampled_from([0.0, 10.0, 1e5]),
}


@given(**CASES)
@examples(5)
@example(seed=0, tokens=1, width=300, spread=1.0, offset=1e5)
def test_equals_the_float64_function(threads, seed, tokens, width, spread, offset):
    x, gamma, beta, _ = random_case(seed, tokens, width, spread, offset)
    out, found = forward(x, gamma, beta)
    expected, statistics = exact(x, gamma, beta)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, statistics, rtol=1e-6, atol=1e-6 * spread)


@pytest.mark.parametrize("width", [7, 64])
def test_halves_are_computed_as_floats_and_rounded_once(threads, width):
    x, gamma, beta, _ = random_case(width, 3, width, 1.0, 10.0)
    halves = x.astype(np.float16)
    out, statistics = forward(halves, gamma, beta)
    expected, same = forward(halves.astype(np.float32), gamma, beta)
    np.testing.assert_array_equal(out, expected.astype(np.float16))
    np.testing.assert_array_equal(statistics, same)


def test_large_beside_small_values_are_normalised(threads):
    """1e6 beside 1e-6: the result has the mean 0 and the variance 1."""
    width = 150
    rng = np.random.default_rng(width)
    x = rng.choice([1e6, 1e-6, -1e6, 0.1], (3, width)).astype(np.float32)
    x[1] = 1e6 + rng.standard_normal(width)
    x[2] = np.where(np.arange(width) < 3, 1e6, 1e-6)
    out, _ = forward(x, np.ones(width, np.float32), np.zeros(width, np.float32))
    np.testing.assert_allclose(out.mean(axis=1, dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(out.var(axis=1, dtype=np.float64), 1, atol=1e-4)


def test_equal_inputs_give_beta(threads):
    x, beta = np.full((2, 70), 3.1, np.float32), np.linspace(-1, 1, 70, dtype=np.float32)
    out, _ = forward(x, np.ones(70, np.float32), beta)
    np.testing.assert_array_equal(out, np.stack([beta, beta]))


def test_statistics_may_be_left_out_and_the_output_may_be_the_input():
    x, gamma, beta, _ = random_case(3, 4, 20, 1.0, 0.5)
    expected, _ = forward(x, gamma, beta)
    x_there, gamma_there, beta_there = on_device(x, gamma, beta)
    device_layer_norm.layer_norm(x_there, gamma_there, beta_there, EPS, x_there)
    np.testing.assert_array_equal(x_there.copy_to_host(), expected)


@given(**CASES)
@examples(4)
@example(seed=1, tokens=17, width=40, spread=1.0, offset=0.0)
def test_the_gradients_equal_those_in_float64(threads, seed, tokens, width, spread, offset):
    x, gamma, _, grad = random_case(seed, tokens, width, spread, offset)
    out, grad_gamma, grad_beta = backward(x, gamma, grad)
    _, statistics = exact(x, gamma, gamma)
    expected = np.empty(x.shape)
    of_gamma, of_beta = numpy_twins.layer_norm_backward(
        x.astype(np.float64), statistics, gamma, grad.astype(np.float64), expected
    )
    scale = statistics[:, 1:]  # of a row's gradient
    np.testing.assert_allclose(out / scale, expected / scale, rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(grad_gamma, of_gamma, rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(grad_beta, of_beta, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [7, 40])
def test_gradients_of_halves_are_computed_as_floats_and_rounded_once(threads, width):
    x, gamma, _, grad = random_case(width, 9, width, 1.0, 1.0)
    halves, grads = x.astype(np.float16), grad.astype(np.float16)
    out, *sums = backward(halves, gamma, grads)
    expected, *same = backward(halves.astype(np.float32), gamma, grads.astype(np.float32))
    np.testing.assert_array_equal(out, expected.astype(np.float16))
    np.testing.assert_array_equal(sums, same)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.zeros(3, np.float32)}, r"rows \[tokens, d\] on the device, not \[3\]"),
        ({"x": np.zeros((2, 3))}, "float32 or float16 for both, not float64, float32"),
        ({"gamma": np.zeros(4, np.float32)}, r"gamma must be float32 \[3\], not float32 \[4\]"),
        ({"beta": np.zeros(3)}, r"beta must be float32 \[3\], not float64 \[3\]"),
        ({"out": np.zeros((1, 3), np.float32)}, r"out must be float32 \[2, 3\]"),
        ({"statistics": np.zeros((2, 2), np.float32)}, r"statistics must be float64 \[2, 2\]"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    fit = {
        "x": np.zeros((2, 3), np.float32),
        "gamma": np.zeros(3, np.float32),
        "beta": np.zeros(3, np.float32),
        "out": np.zeros((2, 3), np.float32),
        "statistics": np.zeros((2, 2)),
    }
    given_arrays = {name: on_device(own)[0] for name, own in (fit | changed).items()}
    with pytest.raises(UsageError, match=message):
        device_layer_norm.layer_norm(**given_arrays, eps=EPS)


def test_gradients_of_other_shapes_are_refused():
    x, gamma, _, grad = random_case(0, 2, 3, 1.0, 0.0)
    arrays = on_device(x, np.zeros((2, 2)), gamma, grad[:1], x, gamma, gamma)
    with pytest.raises(UsageError, match=r"grad must be float32 \[2, 3\], not float32 \[1, 3\]"):
        device_layer_norm.layer_norm_backward(*arrays)
