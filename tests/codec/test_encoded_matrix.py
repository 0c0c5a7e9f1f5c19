"""Matrices of the codec `ectcq`: what is written is read, and what is damaged is refused."""

from dataclasses import replace

import numpy as np
import pytest
from encoded_matrices import encode, gaussian
from examples import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from oracles import entropy_decoder

from rbe_cli.codec import scales
from rbe_cli.codec.column_blocks import MAX_COLUMNS, column_blocks
from rbe_cli.codec.ectcq.encoded_matrix import (
    TUNED_RESOLUTION,
    EncodedMatrix,
    HybridBlock,
    encode_block,
)
from rbe_cli.codec.ectcq.trellis import PARITY_CHECKS, state_labels
from rbe_cli.codec.entropy import rans
from rbe_cli.codec.entropy.entropy_model import LEVELS_PER_OCTAVE, MAX_INTEGER
from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.errors import PayloadError


def joined(blocks):
    """Join the (integers, steps) of blocks to those of the whole matrix."""
    integers, steps = zip(*blocks, strict=True)
    return np.hstack(integers), np.concatenate(steps)


def decode(matrix):
    """Return the integers `[K, N]` and the steps of the columns `[N]`."""
    return joined((integers, steps) for _, integers, steps in matrix.decoded_blocks())


def reference_decode(matrix):
    """Return the same, decoded by the oracle.

    Raises:
        PayloadError: the oracle refuses the matrix, or a weight might be infinite.
    """
    integers, steps = entropy_decoder.decode_integers(matrix)
    if (steps.astype(np.float64) * 2**15 > np.finfo(np.float32).max).any():
        raise PayloadError("steps")
    return integers, steps


def outcome(data, shape, decoder):
    """Return what bytes decode to, or None if they are refused."""
    try:
        return decoder(EncodedMatrix.from_bytes(data, shape))
    except PayloadError:
        return None


@pytest.mark.parametrize("step", [2.0, 0.3, 1e-3])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 50), (50, 1), (33, 7), (70, 65), (3, 1024), (3, 1025), (2, 2 * 1024 + 1)]
)
def test_roundtrip_through_bytes(shape, step):
    weights = gaussian(shape)
    matrix = encode(weights, step)
    data = matrix.to_bytes()
    assert len(data) == matrix.nbytes
    read = EncodedMatrix.from_bytes(data, shape)
    decoded = read.decode()
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, matrix.decode())
    np.testing.assert_array_equal(decoded, entropy_decoder.decode(read))
    integers, steps = decode(read)
    np.testing.assert_array_equal(steps, np.float32(step))
    np.testing.assert_array_equal(decoded, np.float32(step) * integers.astype(np.float32))
    assert np.abs(decoded - weights).max() <= 4 * step
    assert read.to_bytes() == data


@pytest.mark.parametrize("states", PARITY_CHECKS)
def test_every_trellis_comes_back(states):
    weights = gaussian((40, 1030))
    matrix = encode(weights, 0.3, states=states)
    read = EncodedMatrix.from_bytes(matrix.to_bytes(), weights.shape)
    assert read.states == matrix.states == states
    np.testing.assert_array_equal(read.decode(), entropy_decoder.decode(matrix))
    assert np.abs(read.decode() - weights).max() <= 4 * 0.3


@pytest.mark.parametrize("columns", [1, 7, 70, 1025])
def test_each_column_has_the_step_of_its_importance(columns):
    weights = gaussian((40, columns))
    importance = np.random.default_rng(1).uniform(0.01, 100, columns)
    matrix = encode(weights, 0.1, importance)
    read = EncodedMatrix.from_bytes(matrix.to_bytes(), weights.shape)
    integers, steps = decode(read)
    octaves = np.log2(steps / (0.1 / np.sqrt(importance)))
    assert np.abs(octaves).max() <= 1 / 16 + 1e-5  # half an eighth
    decoded = read.decode()
    np.testing.assert_array_equal(decoded, steps * integers)
    np.testing.assert_array_equal(decoded, entropy_decoder.decode(read))
    assert (np.abs(decoded - weights) <= 4 * steps).all()
    slow_integers, slow_steps = reference_decode(read)
    np.testing.assert_array_equal(integers, slow_integers)
    np.testing.assert_array_equal(steps, slow_steps)


@pytest.mark.parametrize("columns", [1, 7, 70, 1025])
def test_tuned_steps_are_decoded_as_by_the_oracle(columns):
    """Tuned steps are stored in 32nds of an octave instead of eighths."""
    factors = np.exp2(np.linspace(-1, 1, columns, dtype=np.float32))
    matrix = encode(gaussian((40, columns)), 0.3).rescaled(factors)
    read = EncodedMatrix.from_bytes(matrix.to_bytes(), matrix.shape)
    assert read.resolution == TUNED_RESOLUTION
    np.testing.assert_array_equal(read.decode(), entropy_decoder.decode(read))
    found, expected = decode(read), entropy_decoder.decode_integers(read)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(expected[1], np.float32(0.3) * factors, rtol=2 ** (1 / 63) - 1)


def test_the_step_is_that_of_columns_of_unit_importance():
    weights, importance = gaussian((20, 9)), np.full(9, 16.0)
    outputs = OutputFactor.from_importance(importance)
    for unit, step in [(1.0, 0.05), (16.0, 0.2), (64.0, 0.4)]:
        block = encode_block(weights, 0.2, InputFactor.identity(20), outputs, unit)
        _, steps = EncodedMatrix((20, 9), 0.2, (block,)).decode_block(0)
        np.testing.assert_allclose(steps, step, rtol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [
        np.zeros((40, 9)),
        np.full((40, 9), 1e-30),
        np.full((40, 9), 1e30),
        np.full((40, 9), -3e38),
        np.where(np.eye(40, 9), 1e4, 1e-4),
        np.outer(np.logspace(-20, 20, 40), np.ones(9)),
        np.outer(np.ones(40), np.logspace(-20, 20, 9)),
        gaussian((40, 9)) * np.where(np.arange(9) == 4, 0, 1),
    ],
    ids=["zero", "tiny", "huge", "lowest", "outliers", "rows", "columns", "zero column"],
)
def test_extreme_weights_survive(weights):
    """A column's step is raised until half of the integers' range holds its largest weight."""
    weights = weights.astype(np.float32)
    matrix = encode(weights, 0.5)
    read = EncodedMatrix.from_bytes(matrix.to_bytes(), weights.shape)
    np.testing.assert_array_equal(read.decode(), entropy_decoder.decode(matrix))
    raised = 2 * np.abs(weights.astype(np.float64)).max(axis=0) / MAX_INTEGER
    allowed = 4 * np.maximum(0.5, 2 ** (1 / LEVELS_PER_OCTAVE) * raised)
    assert (np.abs(read.decode() - weights.astype(np.float64)) <= allowed).all()


@pytest.mark.parametrize("step", [1e-37, 1e-20, 1e33])
def test_any_step_gives_finite_weights(step):
    weights = gaussian((40, 9))
    importance = np.logspace(-60, 60, 9)
    outputs = OutputFactor.from_importance(importance)
    block = encode_block(weights, step, InputFactor.identity(40), outputs)
    read = EncodedMatrix((40, 9), step, (block,)).decode()
    assert np.isfinite(read).all()
    assert np.abs(read).max() <= 2 * np.abs(weights).max()


def test_blocks_decode_independently():
    weights = gaussian((6, 2 * MAX_COLUMNS + 5))
    matrix = encode(weights, 0.3, np.linspace(1, 9, weights.shape[1]))
    whole, steps = decode(matrix)
    columns = column_blocks(weights.shape[1])
    assert len(matrix.blocks) == len(columns) == 3
    for index in (2, 0, 1):
        found, found_steps = matrix.decode_block(index)
        np.testing.assert_array_equal(found, whole[:, columns[index]])
        np.testing.assert_array_equal(found_steps, steps[columns[index]])


def test_blocks_along_the_trellis_are_those_of_the_matrix_in_another_order():
    weights = gaussian((6, MAX_COLUMNS + 70))
    matrix = encode(weights, 0.3, np.linspace(1, 9, weights.shape[1]))
    whole, steps = decode(matrix)
    for block in matrix.blocks_along_trellis():
        np.testing.assert_array_equal(np.sort(block.order), np.arange(len(block.steps)))
        places = block.columns.start + block.order
        np.testing.assert_array_equal(block.integers, whole[:, places])
        np.testing.assert_array_equal(block.steps, steps[places])
    assert block.columns.stop == weights.shape[1]


def test_bytes_need_no_alignment():
    matrix = encode(gaussian((20, 30)), 0.3)
    for offset in range(1, 8):
        data = memoryview(bytes(offset) + matrix.to_bytes())[offset:]
        read = EncodedMatrix.from_bytes(data, matrix.shape)
        np.testing.assert_array_equal(read.decode(), matrix.decode())


SMALL = encode(gaussian((9, 5)), 0.5)
WIDE = encode(gaussian((2, MAX_COLUMNS + 3)), 0.5)
STRIDED = replace(WIDE, is_sorted=False)  # levels and integers of other columns
TUNED = SMALL.rescaled(np.array([0.8, 0.9, 1.0, 1.1, 1.3], np.float32))


def test_every_truncation_is_refused():
    data = SMALL.to_bytes()
    for size in range(len(data)):
        with pytest.raises(PayloadError):
            EncodedMatrix.from_bytes(data[:size], SMALL.shape)


@pytest.mark.parametrize("extra", [1, 2, 3, 4, 64, 1000])
@pytest.mark.parametrize("matrix", [SMALL, WIDE], ids=["one block", "two blocks"])
def test_every_extension_is_refused(matrix, extra):
    with pytest.raises(PayloadError):
        EncodedMatrix.from_bytes(matrix.to_bytes() + bytes(extra), matrix.shape)


@pytest.mark.parametrize("shape", [(9, 4), (9, 6), (8, 5), (10, 5), (5, 9), (45, 1), (1, 45)])
def test_another_shape_is_refused(shape):
    assert outcome(SMALL.to_bytes(), shape, decode) is None


def test_a_matrix_of_zeros_is_within_the_bound_on_integers():
    """It has as many integers for a word as there may be, since each is the likeliest."""
    zeros = encode(np.zeros((2047, 1023), np.float32), 0.5)
    (block,) = zeros.blocks
    assert 2**14 * (block.words.size + rans.LANES) < 2047 * 1023
    read = EncodedMatrix.from_bytes(zeros.to_bytes(), zeros.shape)
    assert not read.decode().any()


def test_a_block_may_have_as_many_integers_as_its_words_can_code():
    # 2^16 for each of its 32 first states: those of the weights, the rows, and twice the column
    most = (32 * 2**16 - 2) // 2
    payload = bytearray(encode(np.ones((1, 1), np.float32), 0.5).to_bytes())
    payload[8:12] = bytes(4)  # no words
    short = bytes(payload[: 8 + 4 + 140])
    with pytest.raises(PayloadError, match="too few"):
        EncodedMatrix.from_bytes(short, (most + 1, 1))
    assert EncodedMatrix.from_bytes(short, (most, 1)).shape == (most, 1)


def test_more_integers_than_the_words_can_code_are_refused_before_there_is_room_for_them():
    (block,) = SMALL.blocks
    rows = 2**16 * (block.words.size + rans.LANES) // 1024
    shape = (rows, 1024)
    with pytest.raises(PayloadError, match=f"too few for a block of {rows} x 1024"):
        EncodedMatrix.from_bytes(SMALL.to_bytes(), shape)


@pytest.mark.parametrize("step", [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_step_that_is_none_is_refused(step):
    data = np.float32(step).tobytes() + SMALL.to_bytes()[4:]
    with pytest.raises(PayloadError, match="step"):
        EncodedMatrix.from_bytes(data, SMALL.shape)


@pytest.mark.parametrize("states", [0, 1, 4, 9, 24, 128, 255])
def test_a_trellis_that_is_none_is_refused(states):
    data = SMALL.to_bytes()
    with pytest.raises(PayloadError, match=f"trellis has {states} states"):
        EncodedMatrix.from_bytes(data[:4] + bytes([states]) + data[5:], SMALL.shape)


@pytest.mark.parametrize("order", [2, 255])
def test_an_order_that_is_none_is_refused(order):
    data = SMALL.to_bytes()
    with pytest.raises(PayloadError, match=f"columns have the order {order}"):
        EncodedMatrix.from_bytes(data[:5] + bytes([order]) + data[6:], SMALL.shape)


def forged(step, level, resolution=LEVELS_PER_OCTAVE):
    """Return a matrix of zeros whose column steps are level / resolution octaves above `step`."""
    levels = np.full(5, level, np.int16)
    rows, columns = np.zeros(9, np.int16), np.zeros(5, np.int16)
    models = np.array([scales.scale_model(part) for part in (rows, columns, levels)], np.int16)
    integers = np.zeros((9, 5), np.int32)
    states, words = rans.encode(integers, columns, rows, columns, levels, models, state_labels(8))
    block = HybridBlock(models, states, words)
    return EncodedMatrix((9, 5), step, (block,), resolution=resolution).to_bytes()


@pytest.mark.parametrize("resolution", [8, 32])
@pytest.mark.parametrize("decoder", [decode, entropy_decoder.decode_integers])
def test_a_level_is_a_fraction_of_an_octave(decoder, resolution):
    """docs/FORMAT.md states 8 levels per octave, or 32 after tuning."""
    for octaves in (-2, 0, 1, 3):
        data = forged(0.5, octaves * resolution, resolution)
        _, steps = decoder(EncodedMatrix.from_bytes(data, (9, 5)))
        np.testing.assert_array_equal(steps, np.full(5, 0.5 * 2.0**octaves, np.float32))


@pytest.mark.parametrize(
    ("step", "level"),
    [
        *((3e38, 0), (1.1e34, 0), (1.0, 1000), (1e-44, 2**15 - 1), (1e-30, 2**14)),
        (1.0385e34, 0),  # only -32768 overflows, which no encoder writes
    ],
)
def test_steps_that_overflow_are_refused(step, level):
    matrix = EncodedMatrix.from_bytes(forged(step, level), (9, 5))
    with pytest.raises(PayloadError, match="steps are too large"):
        matrix.decode()


@pytest.mark.parametrize(
    ("step", "level"), [(1.0384e34, 0), (1.0, 900), (1.0, -(2**15)), (1e-44, -99)]
)
def test_steps_that_do_not_are_decoded(step, level):
    decoded = EncodedMatrix.from_bytes(forged(step, level), (9, 5)).decode()
    np.testing.assert_array_equal(decoded, 0)


@given(data=st.binary(max_size=400), rows=st.integers(1, 40), columns=st.integers(1, 3000))
def test_garbage_is_refused(data, rows, columns):
    assert outcome(data, (rows, columns), decode) is None


@examples(200)
@given(
    matrix=st.sampled_from([SMALL, WIDE, STRIDED, TUNED]),
    where=st.integers(0, 10**6),
    change=st.integers(1, 255),
)
def test_a_flipped_byte_is_refused_or_decoded_as_by_the_reference(matrix, where, change):
    data = bytearray(matrix.to_bytes())
    where %= len(data)
    data[where] ^= change
    found = outcome(bytes(data), matrix.shape, decode)
    expected = outcome(bytes(data), matrix.shape, reference_decode)
    assert (found is None) == (expected is None)
    if found is not None:
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-6, atol=1e-38)


@given(start=st.integers(0, 500), size=st.integers(1, 60), seed=st.integers(0, 99))
def test_overwritten_bytes_are_refused_or_decode_to_the_shape(start, size, seed):
    data = SMALL.to_bytes()
    noise = np.random.default_rng(seed).bytes(size)
    damaged = data[:start] + noise + data[start + size :]
    assume(damaged != data)
    found = outcome(damaged, SMALL.shape, decode)
    assert found is None or found[0].shape == SMALL.shape


@given(seed=st.integers(0, 100), rows=st.integers(1, 40), columns=st.integers(1, 300))
def test_steps_can_be_changed_while_integers_stay(seed, rows, columns):
    matrix = encode(gaussian((rows, columns), seed), 0.3)
    factors = np.exp(0.3 * gaussian(columns, seed + 1))
    again = EncodedMatrix.from_bytes(matrix.rescaled(factors).to_bytes(), matrix.shape)
    integers, steps = decode(matrix)
    same, changed = decode(again)
    np.testing.assert_array_equal(same, integers)
    assert np.abs(np.log2(changed / (steps * factors))).max() < 0.501 / 32


def test_a_resolution_that_is_none_is_refused():
    data = SMALL.to_bytes()
    with pytest.raises(PayloadError, match="steps have 7 levels an octave"):
        EncodedMatrix.from_bytes(data[:6] + np.uint16(7).tobytes() + data[8:], SMALL.shape)
