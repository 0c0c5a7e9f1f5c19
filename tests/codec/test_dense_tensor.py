import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.errors import PayloadError

TENSORS = arrays(
    np.float32,
    array_shapes(max_dims=2, max_side=6),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(TENSORS)
def test_float32_is_exact(tensor):
    decoded = dense_tensor.decode(dense_tensor.encode(tensor, "float32"), tensor.shape, "float32")
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, tensor)


@given(TENSORS)
def test_the_chosen_codec_loses_nothing_that_matters(tensor):
    codec = dense_tensor.choose(tensor)
    decoded = dense_tensor.decode(dense_tensor.encode(tensor, codec), tensor.shape, codec)
    error = float(np.linalg.norm((decoded - tensor).astype(np.float64)))
    norm = float(np.linalg.norm(tensor.astype(np.float64)))
    assert error <= max(2**-11 * 1.03 * norm, 1e-20)


@pytest.mark.parametrize(
    ("values", "codec"),
    [
        ([0.0, 0.0], "float16"),
        ([1.0, -0.333], "float16"),
        ([1.0, 1e-9], "float16"),  # beside 1, 1e-9 is nothing
        ([65504.0, 1.0], "float16"),
        ([65505.0, 1.0], "float32"),
        ([-1e38, 0.0], "float32"),
        ([1e-7, 3e-7], "float32"),  # float16's smallest are 6e-8 apart
        ([float("nan"), 0.0], "float32"),
        ([float("inf"), 0.0], "float32"),
    ],
)
def test_float16_is_chosen_where_it_is_enough(values, codec):
    assert dense_tensor.choose(np.array(values, np.float32)) == codec


@pytest.mark.parametrize("codec", ["float16", "float32"])
def test_bytes_are_in_c_order_whatever_the_memory_s(codec):
    tensor = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert dense_tensor.encode(np.asfortranarray(tensor), codec) == dense_tensor.encode(
        tensor, codec
    )
    little_endian = tensor.astype({"float16": "<f2", "float32": "<f4"}[codec])
    assert dense_tensor.encode(tensor, codec) == little_endian.tobytes()


@pytest.mark.parametrize("codec", ["float16", "float32"])
@pytest.mark.parametrize("change", [-2, -1, 1, 4])
def test_a_wrong_number_of_bytes_is_refused(codec, change):
    data = dense_tensor.encode(np.ones((3, 4), np.float32), codec)
    wrong = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(PayloadError, match=r"bytes do not hold a float\d\d tensor of shape"):
        dense_tensor.decode(wrong, (3, 4), codec)


@pytest.mark.parametrize("codec", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(codec, value):
    data = dense_tensor.encode(np.array([1.0, value], np.float32), codec)
    with pytest.raises(PayloadError, match="NaN or infinite"):
        dense_tensor.decode(data, (2,), codec)


@pytest.mark.parametrize(
    ("values", "codec"),
    [([0.5, -65504.0], "float16"), ([1 + 2**-11, 0.0], "float32"), ([65520.0], "float32")],
)
def test_exact_values_take_the_smaller_type(values, codec):
    assert dense_tensor.exact(np.array(values, np.float32)) == codec
