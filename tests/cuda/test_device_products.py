"""Products on the GPU have the CPU's sums, and its outputs to 1e-3."""

import numpy as np
import pytest
from device_arrays import poisoned
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from numba import cuda
from random_panels import FORMS, extreme_matrix, random_matrix

from rbe_cli.cuda import device_matrix
from rbe_cli.cuda.device_weights import on_device
from rbe_cli.cuda.rounded_inputs import RoundedInputs
from rbe_cli.errors import UsageError
from rbe_cli.kernels import numpy_twins
from rbe_cli.kernels.kernel_records import ACTIVATIONS
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.weights.panel_layout import EVEN
from rbe_cli.weights.uniform_panels import UniformPanels

INPUTS = RoundedInputs()  # shared, as a model's matrices share them


def random_case(form, rows, columns, tokens, seed):
    """(a matrix, inputs, a bias)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(tokens, rows)).astype(np.float32)
    return random_matrix(rng, rows, columns, form), x, rng.normal(size=columns).astype(np.float32)


def multiplied(matrix, x, bias=None, activation=None, add=None):
    out = poisoned((len(x), matrix.shape[1]))
    own = [None if array is None else cuda.to_device(array) for array in (bias, add)]
    on_device(matrix, INPUTS).multiply(cuda.to_device(x), out, own[0], activation, own[1])
    return out.copy_to_host()


def on_cpu(matrix, x, bias):
    out = np.full((len(x), matrix.shape[1]), np.nan, np.float32)
    load_kernels("fast", 1).matmul(x, matrix, bias, out)
    return out


@examples(12)
@given(
    form=st.sampled_from(FORMS),
    rows=st.integers(1, 70),
    columns=st.integers(1, 20),
    tokens=st.integers(1, 2),
    seed=st.integers(0, 999),
)
def test_few_tokens_have_the_sums_of_the_cpu(form, rows, columns, tokens, seed):
    matrix, x, bias = random_case(form, rows, columns, tokens, seed)
    np.testing.assert_array_equal(multiplied(matrix, x, bias), on_cpu(matrix, x, bias))


@pytest.mark.parametrize("form", ["even2", "bent4", "int8", "8 states", "64 states", "wide"])
def test_many_tokens_have_the_sums_of_the_cpu(form):
    matrix, x, bias = random_case(form, 41, 19, 5, 1)
    np.testing.assert_array_equal(multiplied(matrix, x, bias), on_cpu(matrix, x, bias))


@pytest.mark.parametrize("tokens", [1, 9])
def test_more_rows_than_share_a_scale(tokens):
    matrix, x, bias = random_case("8 states", 300, 16, tokens, 2)
    x[:, 256:] *= 1000
    np.testing.assert_array_equal(multiplied(matrix, x, bias), on_cpu(matrix, x, bias))


@pytest.mark.parametrize(("tokens", "columns"), [(65, 16), (6, 70)])
def test_more_tokens_and_panels_than_a_block_takes(tokens, columns):
    matrix, x, bias = random_case("bent4", 8, columns, tokens, 3)
    np.testing.assert_array_equal(multiplied(matrix, x, bias), on_cpu(matrix, x, bias))


@pytest.mark.parametrize("form", ["bent4", "int8", "8 states", "wide"])
@pytest.mark.parametrize("largest", [True, False])
def test_sums_of_the_largest_integers_do_not_overflow(form, largest):
    matrix = extreme_matrix(256, 16, form, largest=largest)
    x, bias = np.full((1, 256), -3, np.float32), np.zeros(16, np.float32)
    np.testing.assert_array_equal(multiplied(matrix, x, bias), on_cpu(matrix, x, bias))


@pytest.mark.parametrize(
    ("activation", "tokens"), [(None, 2), *((name, 2) for name in ACTIVATIONS), ("silu", 5)]
)
def test_outputs_are_those_of_the_reference(activation, tokens):
    matrix, x, bias = random_case("int8", 5, 17, tokens, 4)
    x[0] *= 100  # to where activations are straight
    add = np.random.default_rng(5).normal(size=(tokens, 17)).astype(np.float32)
    expected = np.empty((tokens, 17))
    numpy_twins.matmul(x.astype(float), matrix, bias, expected, None, activation)
    expected += add
    found = multiplied(matrix, x, bias, activation, add)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-3, atol=0.2)


def test_what_is_added_may_be_the_output():
    matrix, x, _ = random_case("8 states", 20, 16, 1, 6)
    add = np.ones((1, 16), np.float32)
    out = cuda.to_device(add)
    on_device(matrix, INPUTS).multiply(cuda.to_device(x), out, add=out)
    np.testing.assert_array_equal(out.copy_to_host(), multiplied(matrix, x, add=add))


@pytest.mark.parametrize("tokens", [2, 5])
def test_what_is_not_finite_spoils_its_token_alone(tokens):
    matrix, x, bias = random_case("even2", 40, 16, tokens, 7)
    expected = on_cpu(matrix, x, bias)
    x[0, 3], x[1, 39] = np.nan, -np.inf
    found = multiplied(matrix, x, bias)
    assert np.isnan(found[:2]).all()
    np.testing.assert_array_equal(found[2:], expected[2:])


def test_inputs_of_zero_give_the_bias():
    matrix, x, bias = random_case("bent4", 40, 16, 1, 8)
    np.testing.assert_array_equal(multiplied(matrix, 0 * x, bias), [bias])


@pytest.mark.parametrize("form", FORMS)
def test_columns_are_those_of_the_matrix(form):
    matrix, *_ = random_case(form, 75, 37, 1, 9)
    indices = np.array([36, 0, 17, 36])
    out = poisoned((4, 75))
    on_device(matrix).columns(cuda.to_device(indices.astype(np.int32)), out)
    np.testing.assert_array_equal(out.copy_to_host(), matrix.columns(indices))


@pytest.mark.parametrize(("tokens", "rows", "columns"), [(1, 1, 1), (18, 20, 3), (2, 5, 33)])
def test_arrays_are_multiplied_too(tokens, rows, columns):
    rng = np.random.default_rng(11)
    weight = rng.normal(size=(rows, columns)).astype(np.float32)
    x, bias = rng.normal(size=(tokens, rows)), rng.normal(size=columns)
    found = multiplied(weight, x.astype(np.float32), bias.astype(np.float32), "relu")
    np.testing.assert_allclose(found, np.maximum(x @ weight + bias, 0), atol=1e-4)
    indices, out = rng.integers(0, columns, 3), poisoned((3, rows))
    on_device(weight).columns(cuda.to_device(indices.astype(np.int32)), out)
    np.testing.assert_array_equal(out.copy_to_host(), weight[:, indices].T)


def test_more_tokens_than_are_multiplied_at_once(monkeypatch):
    rng = np.random.default_rng(12)
    weight, x, add = (rng.normal(size=size).astype(np.float32) for size in ((4, 3), (8, 4), (8, 3)))
    expected = multiplied(weight, x, add=add)
    monkeypatch.setattr(device_matrix.DeviceMatrix, "most_tokens", 3)
    np.testing.assert_array_equal(multiplied(weight, x, add=add), expected)


def test_sums_of_integers_past_8_bits_take_little_memory():
    matrices = [on_device(random_case(form, 40, 16, 1, 13)[0]) for form in ("wide", "8 states")]
    assert [matrix.most_tokens for matrix in matrices] == [64, device_matrix.MOST_TOKENS]


def test_the_bytes_on_the_device_are_those_of_the_panels():
    matrix, *_ = random_case("8 states", 320, 32, 1, 10)
    assert matrix.nbytes <= on_device(matrix).nbytes <= 1.25 * matrix.nbytes


@pytest.mark.parametrize("name", ["x", "out", "bias", "add"])
def test_wrong_shapes_are_refused(name):
    matrix = on_device(np.zeros((3, 2), np.float32))
    arrays = {"x": (4, 3), "out": (4, 2), "bias": (2,), "add": (4, 2)}
    arrays[name] = (*arrays[name][:-1], 7)
    made = {key: cuda.to_device(np.zeros(shape, np.float32)) for key, shape in arrays.items()}
    with pytest.raises(UsageError, match=f"`{name}` of a product has the shape"):
        matrix.multiply(**made)


def test_panels_that_no_codec_makes_are_refused():
    matrix = UniformPanels(
        np.zeros(192, np.uint8), EVEN[2], np.ones(4, np.float32), np.ones(4, np.float32), (4, 4)
    )
    with pytest.raises(UsageError, match="does not know panels of the kind even3"):
        on_device(matrix)
