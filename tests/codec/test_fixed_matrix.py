import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.codec.error_cost import InputFactor, OutputFactor
from rbe_cli.codec.fixed.fixed_encoder import encode_matrix
from rbe_cli.codec.fixed.fixed_matrix import LAYOUTS, FixedMatrix, payload_bytes
from rbe_cli.errors import PayloadError, UsageError
from rbe_cli.weights.panel_layout import panel_shape, unpack

BITS = sorted(LAYOUTS)
SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 200))


def encoded(weights, bits):
    """Encode in one block, with errors that all cost the same."""
    rows, columns = weights.shape
    return encode_matrix(
        weights, bits, InputFactor.identity(rows), (OutputFactor.identity(columns),)
    )


def random_payload(rng, shape, bits, unit):
    """Return bytes with random values and steps."""
    data = rng.bytes(payload_bytes(shape, bits) - 4)
    return data + np.float32(unit).tobytes()


@given(shape=SHAPES, bits=st.sampled_from(BITS), seed=st.integers(0, 99))
def test_a_matrix_survives_its_bytes(shape, bits, seed):
    weights = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    matrix = encoded(weights, bits)
    data = matrix.to_bytes()
    assert len(data) == payload_bytes(shape, bits)
    again = FixedMatrix.from_bytes(memoryview(data), shape)
    assert (again.shape, again.bits, again.unit) == (shape, bits, matrix.unit)
    assert again.to_bytes() == data
    np.testing.assert_array_equal(again.decode(), matrix.decode())


@given(shape=SHAPES, bits=st.sampled_from(BITS), seed=st.integers(0, 99))
def test_bytes_mean_what_their_description_says(shape, bits, seed):
    data = random_payload(np.random.default_rng(seed), shape, bits, 0.75)
    rows, columns = shape
    size = -(-columns // 16) * -(-rows // 32) * bits * 64  # tiles of 32 rows by 16 columns
    values = np.frombuffer(data, np.uint8, size).reshape(panel_shape(shape, bits))
    codes = unpack(values, shape)
    row_levels = np.frombuffer(data, np.int8, rows, values.size)
    column_levels = np.frombuffer(data, np.int8, columns, values.size + rows)
    decoded = FixedMatrix.from_bytes(data, shape).decode()
    for k, n in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)):
        level = LAYOUTS[bits].levels[codes[k, n]]
        step = 0.75 * 2 ** ((int(row_levels[k]) + int(column_levels[n])) / 8)
        assert decoded[k, n] == pytest.approx(level * step, rel=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_values_are_not_copied(bits):
    data = np.frombuffer(random_payload(np.random.default_rng(0), (40, 70), bits, 1.0), np.uint8)
    matrix = FixedMatrix.from_bytes(data.data, (40, 70))
    assert np.shares_memory(matrix.values, data)
    assert matrix.values.shape == panel_shape((40, 70), bits)
    assert not matrix.values.flags.writeable


@pytest.mark.parametrize("bits", BITS)
def test_all_levels_are_used_and_come_back(bits):
    levels = LAYOUTS[bits].levels[1 if bits == 8 else 0 :]
    weights = np.tile(levels, (16, 2)).astype(np.float32)
    matrix = encoded(weights, bits)
    np.testing.assert_allclose(matrix.decode(), weights, rtol=0.1, atol=0.1)
    assert len(np.unique(matrix.decode()[0])) == len(levels)


# Of Gaussian noise; Max 1960 has .3428 and .0975 at best without steps to store.
@pytest.mark.parametrize(
    ("bits", "size", "error"), [(2, 2.0209, 0.345), (4, 4.0209, 0.099), (8, 8.0209, 0.0085)]
)
def test_size_and_error(bits, size, error):
    weights = np.random.default_rng(0).normal(size=(768, 768)).astype(np.float32)
    matrix = encoded(weights, bits)
    assert 8 * len(matrix.to_bytes()) / weights.size == pytest.approx(size, abs=1e-4)
    assert np.linalg.norm(weights - matrix.decode()) < error * np.linalg.norm(weights)


def test_encoding_can_be_sent_to_another_process():
    weights = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    task = (encode_matrix, weights, 4, InputFactor.identity(20), (OutputFactor.identity(30),))
    function, *arguments = pickle.loads(pickle.dumps(task))
    found = pickle.loads(pickle.dumps(function(*arguments)))
    assert found.to_bytes() == encoded(weights, 4).to_bytes()


@given(
    shape=SHAPES,
    bits=st.sampled_from(BITS),
    change=st.integers(-70, 70),
    seed=st.integers(0, 99),
)
def test_bytes_of_another_number_are_refused(shape, bits, change, seed):
    data = random_payload(np.random.default_rng(seed), shape, bits, 1.0)
    data = (data + bytes(70))[: len(data) + change]
    if len(data) in [payload_bytes(shape, other) for other in BITS]:
        assert len(FixedMatrix.from_bytes(data, shape).to_bytes()) == len(data)
    else:
        with pytest.raises(PayloadError, match="bytes do not hold a fixed-rate matrix"):
            FixedMatrix.from_bytes(data, shape)


@pytest.mark.parametrize("unit", [0.0, -1.0, np.nan, np.inf])
def test_a_unit_that_is_no_step_is_refused(unit):
    data = bytes(payload_bytes((8, 64), 4) - 4) + np.float32(unit).tobytes()
    with pytest.raises(PayloadError, match="the unit"):
        FixedMatrix.from_bytes(data, (8, 64))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("row", "column"), [(0, 0), (8, -8), (50, 9), (127, -128)])
def test_the_largest_unit_is_one_at_which_no_weight_can_overflow(bits, row, column):
    """The largest weight is that of the largest level, whether a code has it or not."""
    largest_level = {2: 1.5, 4: 9.375, 8: 128.0}[bits]
    largest_step = 2.0 ** ((row + column) / 8)
    unit = np.float32(float(np.finfo(np.float32).max) / largest_level / largest_step / 1.0001)
    levels = np.full(5, -128, np.int8), np.full(40, -128, np.int8)
    levels[0][3], levels[1][20] = row, column
    codes = bytes(payload_bytes((5, 40), bits) - 49)

    def read(unit):
        data = codes + levels[0].tobytes() + levels[1].tobytes() + np.float32(unit).tobytes()
        return FixedMatrix.from_bytes(data, (5, 40))

    assert np.isfinite(read(unit).decode()).all()
    with pytest.raises(PayloadError, match="a matrix's steps are too large"):
        read(unit * np.float32(1.0002))


def test_a_weight_that_only_overflows_in_the_order_of_decoding_is_refused():
    """The product of the three is just within float32 if the steps are multiplied first."""
    codes = bytes([255]) * (payload_bytes((5, 40), 4) - 49)
    levels = np.full(5, 127, np.int8), np.full(40, 124, np.int8)
    unit = np.float32(1.303323e28)
    data = codes + levels[0].tobytes() + levels[1].tobytes() + unit.tobytes()
    with pytest.raises(PayloadError, match="a matrix's steps are too large"):
        FixedMatrix.from_bytes(data, (5, 40))


def test_steps_that_no_levels_can_store_are_refused():
    matrix = encoded(np.ones((4, 20), np.float32), 4)
    ones = np.ones(4, np.float32), np.ones(20, np.float32)
    for row_steps in (2.0 ** (127 / 8), 2.0**-16):
        changed = matrix.with_steps(np.float32(row_steps) * ones[0], ones[1])
        np.testing.assert_allclose(changed.row_steps, row_steps, rtol=1e-6)
    for row_steps in (2.0 ** (128 / 8), 2.0 ** (-129 / 8)):
        with pytest.raises(UsageError, match="a larger range than the codec fixed can store"):
            matrix.with_steps(np.float32(row_steps) * ones[0], ones[1])
    column_steps = np.where(np.arange(20) == 7, np.float32(2.0**-16), ones[1])
    np.testing.assert_allclose(matrix.with_steps(ones[0], column_steps).column_steps, column_steps)
    with pytest.raises(UsageError, match="a larger range"):
        matrix.with_steps(ones[0], column_steps * np.where(np.arange(20) == 7, 0.9, 1))


@given(
    shape=SHAPES,
    bits=st.sampled_from(BITS),
    exponent=st.floats(-44, 38.5),
    seed=st.integers(0, 99),
)
def test_any_bytes_decode_to_finite_weights_or_are_refused(shape, bits, exponent, seed):
    data = random_payload(np.random.default_rng(seed), shape, bits, 10.0**exponent)
    try:
        decoded = FixedMatrix.from_bytes(data, shape).decode()
    except PayloadError:
        assert not 1e-44 < 10.0**exponent < 1e25
    else:
        assert np.isfinite(decoded).all()
