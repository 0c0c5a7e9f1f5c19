import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.codec import panels
from rbe_cli.codec.panels import BENT_4, EVEN_2
from rbe_cli.kernels.panel import PanelMatrix

LARGEST = {4: 7, 8: 127, 16: 32767}  # integer, by bits


def pack(integers, widths):
    """A PanelMatrix from blocks of the given widths, repeated to the end."""
    blocks, start = [], 0
    steps = np.linspace(0.5, 2, integers.shape[1], dtype=np.float32)
    while start < integers.shape[1]:
        stop = min(start + widths[len(blocks) % len(widths)], integers.shape[1])
        blocks.append((slice(start, stop), integers[:, start:stop], steps[start:stop]))
        start = stop
    return PanelMatrix.from_blocks(integers.shape, blocks)


def coded(levels, shape, seed=0):
    """(PanelMatrix, its codes), both random."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, levels.size, shape)
    bits = levels.size.bit_length() - 1
    values = panels.zeros(shape, bits)
    panels.store(values, bits, 0, codes)
    steps = [np.exp2(rng.normal(size=size)).astype(np.float32) for size in shape]
    return PanelMatrix(values, levels, *steps, shape), codes


@given(
    data=st.data(),
    bits=st.sampled_from(sorted(LARGEST)),
    rows=st.integers(1, 30),
    columns=st.integers(1, 200),
    widths=st.lists(st.integers(1, 130), min_size=1, max_size=4),
)
def test_packing_is_lossless(data, bits, rows, columns, widths):
    elements = st.integers(-LARGEST[bits] - 1, LARGEST[bits])
    integers = data.draw(arrays(np.int16, (rows, columns), elements=elements))
    matrix = pack(integers, widths)
    assert matrix.bits <= bits
    assert matrix.shape == integers.shape
    np.testing.assert_array_equal(matrix.unscaled(), integers)


@pytest.mark.parametrize(("bits", "largest"), LARGEST.items())
def test_integers_take_the_fewest_bits(bits, largest):
    at_limit = np.full((9, 70), largest, np.int16)
    assert pack(at_limit, [32]).bits == bits
    assert pack(-at_limit - 1, [32]).bits == bits


@pytest.mark.parametrize("late", [8, 128])
def test_a_wide_integer_in_a_late_block_widens_the_whole(late):
    integers = np.arange(-7, 8, dtype=np.int16).repeat(10).reshape(1, 150).repeat(11, axis=0)
    integers[-1, -1] = late
    np.testing.assert_array_equal(pack(integers, [50]).unscaled(), integers)


def test_integers_past_int16_are_refused():
    with pytest.raises(OverflowError, match="40000"):
        pack(np.full((2, 2), 40000, np.int32), [2])


@pytest.mark.parametrize("largest", LARGEST.values())
def test_columns_are_weights(largest):
    integers = np.random.default_rng(0).integers(-largest, largest + 1, (13, 150))
    matrix = pack(integers.astype(np.int16), [64])
    indices = np.array([149, 0, 63, 64, 64])
    columns = matrix.columns(indices)
    assert columns.flags.c_contiguous
    expected = (matrix.column_steps * integers)[:, indices].T.astype(np.float32)
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(matrix.dense()[:, indices].T, columns)


@pytest.mark.parametrize("levels", [EVEN_2, BENT_4])
@given(rows=st.integers(1, 30), columns=st.integers(1, 200), seed=st.integers(0, 99))
def test_a_weight_is_its_level_times_both_steps(levels, rows, columns, seed):
    matrix, codes = coded(levels, (rows, columns), seed)
    assert matrix.bits == {4: 2, 16: 4}[levels.size]
    expected = levels[codes] * matrix.row_steps[:, None] * matrix.column_steps
    np.testing.assert_array_equal(matrix.dense(), expected)
    indices = np.arange(columns)[::-1]
    np.testing.assert_array_equal(matrix.columns(indices), expected.T[::-1])


def test_panels_of_8_bits_are_padded_with_zeros():
    matrix = pack(np.full((9, 65), 100, np.int16), [65])
    assert matrix.values.shape == (2, 16, 64)
    assert not matrix.values[:, 9:].any()
    assert not matrix.values[1, :, 1:].any()
    assert matrix.nbytes == 2 * 16 * 64 + 4 * 65 + 4 * 9


def test_panels_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        pack(np.ones((3, 3), np.int16), [3]).values[0, 0, 0] = 1
