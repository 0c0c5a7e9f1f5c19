import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.codec.column_blocks import (
    MAX_COLUMNS,
    SEGMENT,
    column_blocks,
    sorted_order,
    strided_order,
)


@given(st.integers(1, 5 * MAX_COLUMNS))
def test_blocks_share_the_columns_evenly(columns):
    blocks = column_blocks(columns)
    assert np.concatenate([np.r_[block] for block in blocks]).tolist() == list(range(columns))
    widths = [block.stop - block.start for block in blocks]
    assert max(widths) <= MAX_COLUMNS
    assert max(widths) - min(widths) <= 1
    assert len(blocks) == -(-columns // MAX_COLUMNS)


def test_strides_visit_every_column_once():
    for width in range(1, MAX_COLUMNS + 1):
        order = strided_order(width)
        assert order.dtype == np.int64
        assert sorted(order.tolist()) == list(range(width))


def test_a_single_segment_keeps_its_order():
    for width in range(1, SEGMENT + 1):
        np.testing.assert_array_equal(strided_order(width), np.arange(width))


@pytest.mark.parametrize("segments", [2, 3, 12, MAX_COLUMNS // SEGMENT])
def test_a_segment_s_columns_are_as_far_apart_as_can_be(segments):
    for segment in strided_order(segments * SEGMENT).reshape(segments, SEGMENT):
        np.testing.assert_array_equal(np.diff(segment), segments)


@given(st.integers(SEGMENT + 1, MAX_COLUMNS))
def test_neighbours_are_written_one_after_the_other(width):
    """Neighbours are about one segment apart in the order, except at the ends of a stride."""
    position = np.argsort(strided_order(width))
    distances = np.abs(np.diff(position))
    assert distances.min() >= width // -(-width // SEGMENT) - 1


LEVELS = arrays(np.int16, st.integers(1, MAX_COLUMNS), elements=st.integers(-48, 48))


@given(LEVELS)
def test_segments_hold_columns_of_ascending_levels_each_in_its_place(levels):
    order = sorted_order(levels)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(levels.size))
    ranked = sorted(range(levels.size), key=lambda n: (levels[n], n))
    for first in range(0, levels.size, SEGMENT):
        segment = order[first : first + SEGMENT].tolist()
        assert segment == sorted(ranked[first : first + SEGMENT])


def test_equal_levels_keep_the_order_of_the_matrix():
    np.testing.assert_array_equal(sorted_order(np.full(100, 7, np.int16)), np.arange(100))
