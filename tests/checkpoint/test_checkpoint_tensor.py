"""Values of the types of weight files, to float32 and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES, from_float32, to_float32
from rbe_cli.errors import UsageError

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST_BFLOAT16 = (2 - 2**-7) * 2.0**127


def plain_bfloat16(bits):
    """Return the value of a bfloat16 by its sign, exponent and fraction."""
    sign, exponent, fraction = bits >> 15, bits >> 7 & 255, bits & 127
    significand = fraction if exponent == 0 else 128 + fraction
    size = significand * 2.0 ** (max(exponent, 1) - 134)
    return -size if sign else size


def test_every_bfloat16_is_a_float32():
    bits = np.arange(2**16, dtype=np.uint16)
    values = to_float32(bits, "bfloat16")
    assert values.dtype == np.float32
    is_finite = (bits >> 7 & 255) != 255
    np.testing.assert_array_equal(np.isfinite(values), is_finite)
    expected = [plain_bfloat16(int(own)) for own in bits[is_finite]]
    np.testing.assert_array_equal(values[is_finite], np.array(expected, np.float32))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_other_types_are_rounded_to_float32(dtype):
    raw = np.array([0.1, -2.0, 1e-7], RAW_TYPES[dtype])
    found = to_float32(raw, dtype)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, raw.astype(np.float32))


def test_what_float32_cannot_hold_becomes_infinite():
    found = to_float32(np.array([1e39, -1e39, 1.0]), "float64")
    np.testing.assert_array_equal(found, [np.inf, -np.inf, 1])


@given(st.lists(FINITE, min_size=1, max_size=30))
def test_bfloat16_is_the_nearest_and_a_tie_goes_to_even(values):
    tensor = np.array(values, np.float32)
    tensor = tensor[np.abs(tensor) <= LARGEST_BFLOAT16]
    bits = from_float32(tensor, "bfloat16")
    assert bits.dtype == np.uint16
    for own, value in zip(bits.tolist(), tensor.tolist(), strict=True):
        error = abs(plain_bfloat16(own) - value)
        for other in (own - 1, own + 1):
            if 0 <= other < 2**16 and other >> 7 & 255 != 255:
                distance = abs(plain_bfloat16(other) - value)
                assert error < distance or (error == distance and own % 2 == 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_values_come_back_as_they_were_rounded(dtype):
    tensor = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32).T
    again = to_float32(from_float32(tensor, dtype), dtype)
    assert again.shape == tensor.shape
    np.testing.assert_allclose(again, tensor, rtol=2.0**-8)
    np.testing.assert_array_equal(to_float32(from_float32(again, dtype), dtype), again)


@pytest.mark.parametrize(
    ("dtype", "fits", "largest"),
    [("float16", 65519.0, 65520.0), ("bfloat16", LARGEST_BFLOAT16, 3.4e38)],
)
def test_a_value_beyond_the_type_is_refused(dtype, fits, largest):
    assert np.isfinite(to_float32(from_float32(np.float32([fits, -1]), dtype), dtype)).all()
    message = f"{dtype} cannot hold its largest value, {largest:g}"
    with pytest.raises(UsageError, match=message.replace("+", r"\+")):
        from_float32(np.array([1.0, -largest], np.float32), dtype)
