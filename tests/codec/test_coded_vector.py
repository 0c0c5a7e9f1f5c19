import struct

import numpy as np
import pytest
from examples import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import entropy_decoder

from rbe_cli.codec.registry import codec_named
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.codec.vectors.coded_vector import choose, encode_vector
from rbe_cli.errors import PayloadError

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = arrays(np.float32, st.integers(1, 60), elements=FINITE | st.floats(-2, 2, width=32))
STEPS = st.floats(1e-6, 1e3)
CODECS = ["coded", "float16", "float32", "scalar"]


def decode_vector(data, shape, codec):
    return codec_named(codec).decode(data, shape)


def largest_error(decoded, values):
    return np.abs(decoded.astype(np.float64) - values.astype(np.float64)).max()


def gaussian(size, seed=0):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def outcome(decoder, *arguments):
    """Return what is decoded, or None if it is refused."""
    try:
        return decoder(*arguments)
    except PayloadError:
        return None


# The codec `coded`


@given(
    values=arrays(np.float32, st.integers(1, 80), elements=st.floats(-50, 50, width=32)),
    step=st.floats(0.004, 100),
)
def test_a_coded_value_errs_by_half_a_step_at_most(values, step):
    data = encode_vector(values, step)
    decoded = decode_vector(data, values.shape, "coded")
    assert decoded.dtype == np.float32
    assert largest_error(decoded, values) <= 0.5 * step * (1 + 1e-6) + np.spacing(np.float32(50))
    np.testing.assert_array_equal(decoded, entropy_decoder.decode_vector(data, values.size))


@given(values=VALUES, step=STEPS)
def test_any_vector_can_be_coded(values, step):
    """Only values more than 32767 steps from the median are clipped."""
    data = encode_vector(values, step)
    found = outcome(decode_vector, data, values.shape, "coded")
    if found is None:  # a step beyond the largest float32
        assert np.abs(values).max() > 3e38
        return
    median = float(np.float32(np.median(values.astype(np.float64))))
    near = np.abs(values.astype(np.float64) - median) <= 32767 * step
    error = np.abs(found - values.astype(np.float64))[near]
    assert (error <= 0.51 * step + 2.0**-23 * np.abs(values[near].astype(np.float64))).all()


@pytest.mark.parametrize(("fraction", "bits"), [(16, 6.05), (64, 8.05)])
def test_size_is_that_of_the_differential_entropy(fraction, bits):
    """It is log2(sigma sqrt(2 pi e) / step) bits per value (Gish and Pierce 1968), and 14 bytes."""
    values = gaussian(4096)
    data = encode_vector(values, 1 / fraction)
    assert 8 * (len(data) - 14) / values.size == pytest.approx(bits, rel=0.02)


def test_outliers_cost_little():
    values = gaussian(1000)
    plain = encode_vector(values, 0.05)
    values[[3, 500]] = 1000, -1500
    data = encode_vector(values, 0.05)
    assert len(data) < len(plain) + 16
    assert largest_error(decode_vector(data, values.shape, "coded"), values) <= 0.0251


# The choice


@examples(200)
@given(values=VALUES, step=STEPS)
def test_the_choice_is_the_smallest_that_is_near_enough(values, step):
    codec, data = choose(values, step)
    allowed = 0.5 * np.float32(step) + 2.0**-23 * np.abs(values.astype(np.float64))

    def is_near(codec, data):
        found = outcome(decode_vector, data, values.shape, codec)
        return found is not None and (np.abs(found - values.astype(np.float64)) <= allowed).all()

    assert is_near(codec, data)
    with np.errstate(over="ignore"):
        half = dense_tensor.encode(values, "float16")
    others = ("coded", encode_vector(values, step)), ("float16", half)
    for other, longer in (*others, ("float32", dense_tensor.encode(values, "float32"))):
        if is_near(other, longer):
            assert len(data) <= len(longer)
    if np.ptp(values.astype(np.float64)) == 0:
        assert len(data) <= 4


@pytest.mark.parametrize(
    ("values", "step", "codec"),
    [
        (np.ones(50), 1e-3, "scalar"),
        (np.zeros(50), 1e-3, "scalar"),
        (np.full(50, -3e38), 1e-3, "scalar"),
        (1 + 4e-4 * np.sin(np.arange(50)), 1e-3, "scalar"),  # as good as constant
        (np.full(1, 0.1), 1e-3, "float16"),
        (gaussian(300), 0.05, "coded"),
        (gaussian(300), 1e-5, "float32"),  # out of the range of `coded`, too fine for float16
        (gaussian(5), 0.05, "float16"),  # 14 bytes are too many
        (70000 * gaussian(300), 1000.0, "coded"),
        (70000 * gaussian(300), 0.01, "float32"),
        (np.where(np.arange(300) == 7, 1e30, gaussian(300)), 0.05, "float32"),
    ],
)
def test_what_is_chosen(values, step, codec):
    values = values.astype(np.float32)
    found, data = choose(values, step)
    assert found == codec
    spacing = np.spacing(np.abs(values).max())
    assert largest_error(decode_vector(data, values.shape, codec), values) <= step / 2 + spacing


@pytest.mark.parametrize("codec", ["float16", "float32"])
def test_dense_vectors_are_those_of_the_dense_codec(codec):
    values = gaussian(20)
    data = dense_tensor.encode(values, codec)
    expected = dense_tensor.decode(data, values.shape, codec)
    np.testing.assert_array_equal(decode_vector(data, values.shape, codec), expected)


# Hostile bytes


CODED = encode_vector(gaussian(40), 0.1)


@given(data=st.binary(max_size=300), count=st.integers(1, 99), codec=st.sampled_from(CODECS))
def test_garbage_is_refused_or_decodes_to_finite_values(data, count, codec):
    found = outcome(decode_vector, data, (count,), codec)
    if found is not None:
        assert found.shape == (count,)
        assert np.isfinite(found).all()


def test_every_truncation_and_extension_is_refused():
    for size in range(len(CODED)):
        assert outcome(decode_vector, CODED[:size], (40,), "coded") is None
    for extra in (1, 2, 3, 64):
        assert outcome(decode_vector, CODED + bytes(extra), (40,), "coded") is None


@pytest.mark.parametrize("count", [1, 39, 41, 10**5])
def test_another_length_is_refused(count):
    with pytest.raises(PayloadError, match="words do not end"):
        decode_vector(CODED, (count,), "coded")


@given(where=st.integers(0, len(CODED) - 1), change=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_decoded_as_by_the_reference(where, change):
    data = bytearray(CODED)
    data[where] ^= change
    offset, step = struct.unpack_from("<ff", data)
    assume(np.isfinite(offset) and np.isfinite(step) and step > 0)
    assume(abs(offset) < 1e30 and step < 1e30)
    found = outcome(decode_vector, bytes(data), (40,), "coded")
    expected = outcome(entropy_decoder.decode_vector, bytes(data), 40)
    assert (found is None) == (expected is None)
    if found is not None:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("offset", "step"),
    [(np.nan, 1), (np.inf, 1), (0, 0.0), (0, -0.0), (0, -1), (0, np.inf), (0, np.nan)],
)
def test_offsets_and_steps_that_are_none_are_refused(offset, step):
    data = struct.pack("<ff", offset, step) + CODED[8:]
    with pytest.raises(PayloadError, match=r"offset .* and step"):
        decode_vector(data, (40,), "coded")


def test_values_that_overflow_are_refused():
    data = struct.pack("<ff", 3e38, 3e38) + CODED[8:]
    with pytest.raises(PayloadError, match="NaN or infinite"):
        decode_vector(data, (40,), "coded")


@pytest.mark.parametrize("data", [b"", bytes(3), bytes(5), bytes(8)])
def test_a_scalar_has_four_bytes(data):
    with pytest.raises(PayloadError, match=f"{len(data)} bytes are not one scalar"):
        decode_vector(data, (6,), "scalar")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_scalar_is_finite(value):
    with pytest.raises(PayloadError, match="NaN or infinite"):
        decode_vector(struct.pack("<f", value), (6,), "scalar")
