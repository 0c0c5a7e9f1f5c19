"""Test what every codec of the registry must do."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.codec.codec import Codec, CodecOptions, EncodingJob, SteppedCodec
from rbe_cli.codec.registry import CODECS, codec_named, matrix_codec_names
from rbe_cli.errors import PayloadError, UsageError
from rbe_cli.weights.weight_forms import dense

OF_MATRICES = [codec for codec in CODECS.values() if codec.takes_matrices]
OF_VECTORS = [codec for codec in CODECS.values() if codec.takes_vectors]
SIZES = st.integers(1, 70)
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
every_matrix_codec = pytest.mark.parametrize("codec", OF_MATRICES, ids=lambda codec: codec.name)
every_vector_codec = pytest.mark.parametrize("codec", OF_VECTORS, ids=lambda codec: codec.name)


def job_for(values, bits=4.0):
    return EncodingJob(CodecOptions(bits, is_asked=True), step=0.1 * float(values.std()) or 1.0)


def encoded(codec, shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    payload = codec.encode(values, job_for(values))
    return values, codec_named(payload.codec), payload.data


@every_codec
def test_it_is_found_by_its_name_and_pickled_by_it(codec):
    assert codec_named(codec.name) is codec
    assert pickle.loads(pickle.dumps(codec)) is codec
    assert codec.version >= 1
    assert codec.takes_matrices or codec.takes_vectors
    assert (codec.name in matrix_codec_names()) == codec.takes_matrices


@every_matrix_codec
@given(st.tuples(SIZES, SIZES))
def test_a_matrix_of_any_shape_is_decoded_in_its_shape(codec, shape):
    values, codec, data = encoded(codec, shape)
    decoded = codec.decode(data, shape)
    assert decoded.dtype == np.float32
    assert decoded.shape == shape
    if codec.is_exact:
        np.testing.assert_allclose(decoded, values, rtol=1e-3, atol=1e-4)


@every_matrix_codec
def test_a_large_matrix_is_near_what_was_encoded(codec):
    values, codec, data = encoded(codec, (128, 96))
    error = np.linalg.norm(codec.decode(data, values.shape) - values) / np.linalg.norm(values)
    # The classic scheme keeps single coefficients of a matrix that is noise: most is lost.
    assert error < (0.9 if codec.name == "classic" else 0.2)


@every_vector_codec
@given(SIZES)
def test_a_vector_of_any_length_is_decoded_in_its_shape(codec, length):
    _, codec, data = encoded(codec, (length,))
    decoded = codec.decode(data, (length,))
    assert decoded.dtype == np.float32
    assert decoded.shape == (length,)


@every_codec
def test_exact_bytes_are_those_of_the_encoder(codec):
    for shape in [(33, 18), (1, 1)] if codec.takes_matrices else [(33,), (1,)]:
        _, used, data = encoded(codec, shape)
        assert used.exact_bytes(shape) in (None, len(data))


@every_matrix_codec
def test_the_resident_form_holds_the_decoded_weights(codec):
    values, codec, data = encoded(codec, (70, 50))
    weight = codec.resident(data, values.shape)
    np.testing.assert_array_equal(dense(weight), codec.decode(data, values.shape))
    if codec.has_coded_form:
        coded = codec.coded(data, values.shape)
        assert coded.nbytes == len(data)
        np.testing.assert_array_equal(dense(coded), codec.decode(data, values.shape))


@every_codec
@given(st.data())
def test_damaged_bytes_are_refused_or_decoded_in_the_same_shape(codec, data):
    shape = (20, 12) if codec.takes_matrices else (20,)
    _, used, payload = encoded(codec, shape)
    changed = bytearray(payload)
    for place in data.draw(st.lists(st.integers(0, len(payload) - 1), min_size=1, max_size=4)):
        changed[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(payload)))
    for damaged in (bytes(changed), payload[:cut], payload + b"\0"):
        try:
            decoded = used.decode(damaged, shape)
        except PayloadError:
            continue
        assert decoded.shape == shape
        assert np.isfinite(decoded).all()


@every_matrix_codec
def test_only_codecs_with_steps_of_columns_are_rescaled(codec):
    values, codec, data = encoded(codec, (40, 24))
    factors = np.exp2(np.arange(24) / 32).astype(np.float32)
    if not codec.has_column_steps:
        with pytest.raises(NotImplementedError, match=codec.name):
            codec.rescaled(data, values.shape, factors)
        return
    again = codec.decode(codec.rescaled(data, values.shape, factors), values.shape)
    np.testing.assert_allclose(again, factors * codec.decode(data, values.shape), rtol=0.012)


@every_codec
def test_parameters_that_cannot_be_changed_are_an_error(codec):
    if codec.takes_matrices and not codec.is_exact:
        values, codec, data = encoded(codec, (40, 24))
        weight = codec.resident(data, values.shape)
        again = codec.with_parameters_of(data, values.shape, weight)
        np.testing.assert_array_equal(
            codec.decode(again, values.shape), codec.decode(data, values.shape)
        )
    else:
        with pytest.raises(UsageError, match=codec.name):
            codec.with_parameters_of(b"", (1,), None)


@every_matrix_codec
def test_plain_rounding_errs_by_no_more_than_the_weights(codec):
    assert isinstance(codec, Codec)
    for bits in (1.0, 4.0, 12.0):
        power = codec.plain_error_power(bits, (100, 100), CodecOptions(bits), 0.5)
        assert 0 < power <= 1
    assert codec.plain_error_power(4.0, (9, 9), CodecOptions(4.0), 40.0) <= 1


@pytest.mark.parametrize("codec", [c for c in OF_MATRICES if isinstance(c, SteppedCodec)])
def test_a_codec_with_steps_asks_for_one(codec):
    with pytest.raises(ValueError, match="needs a step"):
        codec.encode(np.ones((4, 4), np.float32), EncodingJob())
