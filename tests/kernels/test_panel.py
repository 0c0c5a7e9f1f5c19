import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from random_panels import random_matrix

from rbe_cli.codec.panels import INTEGERS, LAYOUTS, unpack
from rbe_cli.kernels.panel import PanelMatrix

LARGEST = {layout.bits: layout.offset - 1 for layout in INTEGERS}  # integer, by bits


def pack(integers, widths):
    """A PanelMatrix from blocks of the given widths, repeated to the end."""
    blocks, start = [], 0
    steps = np.linspace(0.5, 2, integers.shape[1], dtype=np.float32)
    while start < integers.shape[1]:
        stop = min(start + widths[len(blocks) % len(widths)], integers.shape[1])
        blocks.append((slice(start, stop), integers[:, start:stop], steps[start:stop]))
        start = stop
    return PanelMatrix.from_blocks(integers.shape, blocks)


@given(
    data=st.data(),
    bits=st.sampled_from(sorted(LARGEST)),
    rows=st.integers(1, 40),
    columns=st.integers(1, 100),
    widths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
)
def test_packing_is_lossless(data, bits, rows, columns, widths):
    elements = st.integers(-LARGEST[bits] - 1, LARGEST[bits])
    integers = data.draw(arrays(np.int16, (rows, columns), elements=elements))
    matrix = pack(integers, widths)
    assert matrix.layout.bits <= bits
    assert matrix.shape == integers.shape
    np.testing.assert_array_equal(matrix.unscaled(), integers)


@pytest.mark.parametrize(("bits", "largest"), LARGEST.items())
def test_integers_take_the_fewest_bits(bits, largest):
    at_limit = np.full((9, 70), largest, np.int16)
    assert pack(at_limit, [32]).layout.bits == bits
    assert pack(-at_limit - 1, [32]).layout.bits == bits


@pytest.mark.parametrize("late", [4, 8, 16, 32])
def test_a_wide_integer_in_a_late_block_widens_the_whole(late):
    integers = np.arange(-3, 4, dtype=np.int16).repeat(20).reshape(1, 140).repeat(11, axis=0)
    integers[-1, -1] = late
    np.testing.assert_array_equal(pack(integers, [50]).unscaled(), integers)


@pytest.mark.parametrize("integer", [128, -129])
def test_integers_past_8_bits_are_refused(integer):
    with pytest.raises(OverflowError, match=str(integer)):
        pack(np.array([[0, integer]]), [1])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@given(rows=st.integers(1, 40), columns=st.integers(1, 60), seed=st.integers(0, 99))
def test_a_weight_is_its_level_times_both_steps(layout, rows, columns, seed):
    matrix = random_matrix(np.random.default_rng(seed), rows, columns, layout)
    codes = unpack(matrix.values, matrix.shape)
    expected = layout.levels[codes] * matrix.row_steps[:, None] * matrix.column_steps
    np.testing.assert_array_equal(matrix.dense(), expected)
    indices = np.arange(columns)[::-1]
    found = matrix.columns(indices)
    np.testing.assert_array_equal(found, expected.T[::-1])
    assert found.flags.c_contiguous


def test_a_matrix_goes_to_another_process_without_its_addresses():
    matrix = random_matrix(np.random.default_rng(0), 40, 20, LAYOUTS[-1])
    own = matrix.record["values"][0]
    again = pickle.loads(pickle.dumps(matrix))
    assert again.layout is matrix.layout
    assert again.record["values"][0] != own
    np.testing.assert_array_equal(again.dense(), matrix.dense())
