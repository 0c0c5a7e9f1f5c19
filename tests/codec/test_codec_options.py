"""What each codec makes of its options: which it refuses, and about how many bits they give."""

import numpy as np
import pytest

from rbe_cli.codec.codec import CodecOptions, EncodingJob
from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.ectcq.ectcq_codec import ECTCQ
from rbe_cli.codec.registry import CODECS, codec_named
from rbe_cli.errors import UsageError


def gaussian(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("codec", "options", "message"),
    [
        ("classic", CodecOptions(block=15), "block = 15 is not between 16 and 256"),
        ("classic", CodecOptions(block=257), "block = 257 is not between 16 and 256"),
        ("ectcq", CodecOptions(states=4), "a trellis has 8, 16, 32 or 64 states, not 4"),
        ("ectcq", CodecOptions(max_integer=6), "the largest integer is from 7 to 32765, not 6"),
        ("ectcq", CodecOptions(max_integer=2**15), "from 7 to 32765, not 32768"),
    ],
)
def test_options_out_of_range_are_refused(codec, options, message):
    with pytest.raises(UsageError, match=message):
        codec_named(codec).check_range(options)


@pytest.mark.parametrize(
    "options",
    [
        CodecOptions(block=16),
        CodecOptions(block=256, states=64, max_integer=7),
        CodecOptions(states=16, max_integer=32765),
    ],
)
@pytest.mark.parametrize("codec", CODECS)
def test_options_within_their_ranges_are_taken(codec, options):
    codec_named(codec).check_range(options)


@pytest.mark.parametrize("bits", [None, 1.0, 3.0, 4.5, 16.0])
def test_a_fixed_rate_is_2_4_or_8_bits(bits):
    weights = np.ones((4, 4), np.float32)
    for refused in (
        lambda: codec_named("fixed").check_bits(CodecOptions(bits)),
        lambda: codec_named("fixed").encode(weights, EncodingJob(CodecOptions(bits))),
    ):
        with pytest.raises(UsageError, match=f"needs bits = 2, 4 or 8, not {bits}"):
            refused()
    for allowed in (2.0, 4.0, 8.0):
        codec_named("fixed").check_bits(CodecOptions(allowed))


@pytest.mark.parametrize(
    ("codec", "bits", "rate", "expected"),
    [
        ("ectcq", None, 3.5, 3.5),
        ("ectcq", 2.0, 3.5, 2.0),
        ("float16", None, 3.5, 16.0),
        ("float32", 2.0, 3.5, 32.0),
        ("coded", None, 3.5, 7.5),
        ("coded", None, 13.0, 16.0),
    ],
)
def test_the_bits_that_are_expected(codec, bits, rate, expected):
    assert codec_named(codec).expected_bits(CodecOptions(bits), rate) == expected


def test_float16_gives_way_unless_it_was_asked_for():
    large = np.full((2, 3), 65505.0, np.float32)
    small = np.full((2, 3), 0.1, np.float32)
    codec = codec_named("float16")
    assert codec.encode(large, EncodingJob()).codec == "float32"
    assert codec.encode(small, EncodingJob()).codec == "float16"
    asked = EncodingJob(CodecOptions(is_asked=True))
    assert codec.encode(small, asked).codec == "float16"
    with pytest.raises(UsageError, match="beyond the range of float16, which was asked for"):
        codec.encode(large, asked)


def test_a_vector_without_a_step_is_written_as_numbers():
    assert codec_named("coded").encode(gaussian(300), EncodingJob()).codec == "float16"
    assert codec_named("coded").encode(gaussian(300), EncodingJob(step=0.05)).codec == "coded"


def test_a_sample_of_columns_foretells_the_size():
    weights = gaussian((96, 1030))
    job = EncodingJob(step=0.2)
    assert ECTCQ.count_parts(weights.shape) == len(column_blocks(1030)) == 2
    side = ECTCQ.side_bits((96, 64)) - ECTCQ.side_bits((96, 64)) * 64 / 1030
    bits = 8 * len(ECTCQ.encode(weights, job).data) / weights.size
    sampled = ECTCQ.sampled_bits(*ECTCQ.sample(weights, job))
    assert sampled == pytest.approx(bits, abs=2 * side / (96 * 64))


def test_a_dearer_bit_gives_fewer_bits_and_larger_errors():
    weights = gaussian((64, 40))
    found = []
    for rate_weight in (0.0, 0.125, 0.5):
        job = EncodingJob(CodecOptions(rate_weight=rate_weight), step=1.0)
        data = ECTCQ.encode(weights, job).data
        error = np.mean((ECTCQ.decode(data, weights.shape) - weights) ** 2)
        found.append((-len(data), float(error)))
    assert found == sorted(set(found))
    assert [error for _, error in found] == sorted(error for _, error in found)
