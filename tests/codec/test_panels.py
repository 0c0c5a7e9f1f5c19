import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.codec.panels import (
    BENT_4,
    DTYPES,
    EVEN_2,
    INTEGERS_4,
    NO_LEVELS,
    bits_of,
    panel_shape,
    store,
    unpack,
    unscaled,
    zeros,
)

TABLES = {2: EVEN_2, 4: BENT_4, 8: NO_LEVELS, 16: NO_LEVELS}


@given(
    data=st.data(),
    bits=st.sampled_from(sorted(DTYPES)),
    rows=st.integers(1, 30),
    columns=st.integers(1, 200),
    cut=st.integers(0, 200),
)
def test_values_come_back(data, bits, rows, columns, cut):
    low, high = (0, 2**bits) if bits < 8 else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    elements = st.integers(low, high - 1)
    block = data.draw(arrays(np.int16, (rows, columns), elements=elements))
    values = zeros((rows, columns), bits)
    for part in (slice(0, min(cut, columns)), slice(min(cut, columns), columns)):
        store(values, bits, part.start, block[:, part])
    assert values.shape == panel_shape((rows, columns), bits)
    np.testing.assert_array_equal(unpack(values, bits, (rows, columns)), block)
    assert bits_of(values, TABLES[bits]) == bits
    expected = TABLES[bits][block] if bits < 8 else block
    np.testing.assert_array_equal(unscaled(values, TABLES[bits], (rows, columns)), expected)


def test_the_first_of_the_rows_that_share_a_byte_has_its_lowest_bits():
    values = zeros((8, 1), 2)
    store(values, 2, 0, np.array([[0], [1], [2], [3], [1], [0], [0], [3]]))
    np.testing.assert_array_equal(values[0, :, 0], [0b11_10_01_00, 0b11_00_00_01])
    values = zeros((4, 1), 4)
    store(values, 4, 0, np.array([[9], [3], [15], [0]]))
    np.testing.assert_array_equal(values[0, :, 0], [0x39, 0x0F, 0, 0])


@pytest.mark.parametrize("levels", [EVEN_2, BENT_4, INTEGERS_4])
def test_levels_ascend_and_are_eighths_that_fit_a_byte(levels):
    assert (np.diff(levels) > 0).all()
    np.testing.assert_array_equal(8 * levels, (8 * levels).astype(np.int8))


def gaussian_error(levels):
    """Mean squared error of the nearest level to Gaussian noise, at the best scale."""
    x = np.linspace(-6, 6, 4001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    scaled = [step * levels for step in np.geomspace(0.1, 1.2, 100)]
    nearest = [own[np.searchsorted((own[1:] + own[:-1]) / 2, x)] for own in scaled]
    return min(float(density @ (x - own) ** 2) for own in nearest)


# Max 1960, table I: the least error of 4 and 16 levels.
@pytest.mark.parametrize(("levels", "least"), [(EVEN_2, 0.1175), (BENT_4, 0.009497)])
def test_levels_suit_gaussian_noise(levels, least):
    assert gaussian_error(levels) < 1.03 * least


def test_bent_levels_suit_gaussian_noise_better_than_even_ones():
    assert gaussian_error(BENT_4) < 0.85 * gaussian_error(np.arange(16) - 7.5)
