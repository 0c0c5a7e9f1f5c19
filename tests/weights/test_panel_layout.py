import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.weights.panel_layout import (
    BENT_4,
    EVEN,
    EVEN_2,
    INT_8,
    LAYOUTS,
    PLANES,
    pack,
    panel_shape,
    unpack,
)


@given(
    data=st.data(),
    bits=st.sampled_from(sorted(PLANES)),
    rows=st.integers(1, 70),
    columns=st.integers(1, 60),
)
def test_codes_come_back(data, bits, rows, columns):
    codes = data.draw(arrays(np.uint8, (rows, columns), elements=st.integers(0, 2**bits - 1)))
    values = pack(codes, bits)
    assert values.shape == panel_shape((rows, columns), bits)
    np.testing.assert_array_equal(unpack(values, (rows, columns)), codes)


def byte(codes, column, row):
    """Where the description puts the bits of a code: [(vector, byte, first bit, bits)]."""
    bits, found, plane_start = codes, [], 0
    quad, within = row % 32 // 4, row % 4
    for own in PLANES[bits]:
        vector = plane_start + quad * own // 8
        found.append((vector, 4 * column + within, quad * own % 8, own))
        plane_start += own
    return found


@pytest.mark.parametrize("bits", sorted(PLANES))
def test_bits_lie_where_the_description_says(bits):
    codes = np.random.default_rng(0).integers(0, 2**bits, (64, 20)).astype(np.uint8)
    values = pack(codes, bits)
    for row, column in ((0, 0), (5, 3), (31, 15), (32, 16), (63, 19)):
        code, shift = 0, 0
        for vector, place, first, own in byte(bits, column % 16, row):
            stored = int(values[column // 16, row // 32, vector, place])
            code |= (stored >> first & (2**own - 1)) << shift
            shift += own
        assert code == codes[row, column]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_levels_ascend_and_are_bytes_times_a_unit(layout):
    assert len(layout.levels) == 2**layout.bits
    assert (np.diff(layout.levels) > 0).all()
    as_bytes = (layout.levels / layout.unit + layout.offset) / layout.factor
    np.testing.assert_array_equal(as_bytes, as_bytes.astype(np.uint8))
    assert 2 ** (layout.byte_bits - 1) <= as_bytes.max() < 2**layout.byte_bits


def test_even_levels_lie_about_zero():
    for layout in EVEN:
        np.testing.assert_array_equal(layout.levels, -layout.levels[::-1])
        assert (np.diff(layout.levels) == 1).all()
    assert INT_8.levels.tolist() == list(range(-128, 128))


def gaussian_error(levels):
    """Mean squared error of the nearest level to Gaussian noise, at the best scale."""
    x = np.linspace(-6, 6, 4001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    scaled = [step * levels for step in np.geomspace(0.1, 1.2, 100)]
    nearest = [own[np.searchsorted((own[1:] + own[:-1]) / 2, x)] for own in scaled]
    return min(float(density @ (x - own) ** 2) for own in nearest)


# Max 1960, table I: the least error of 4 and 16 levels.
@pytest.mark.parametrize(("layout", "least"), [(EVEN_2, 0.1175), (BENT_4, 0.009497)])
def test_levels_suit_gaussian_noise(layout, least):
    assert gaussian_error(layout.levels) < 1.03 * least


def test_bent_levels_suit_gaussian_noise_better_than_even_ones():
    assert gaussian_error(BENT_4.levels) < 0.85 * gaussian_error(np.arange(16) - 7.5)
