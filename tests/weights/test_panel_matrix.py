import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from random_panels import FORMS, random_matrix

from rbe_cli.runtime.arena import Arena
from rbe_cli.weights import panel_layout
from rbe_cli.weights.panel_layout import INTEGERS, LAYOUTS
from rbe_cli.weights.panel_matrix import PanelMatrix

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
    limit=st.sampled_from([1, 3, 7, 15, 31, 127, 128, 2000, 32639]),
    rows=st.integers(1, 70),
    columns=st.integers(1, 100),
    widths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
)
def test_packing_is_lossless(data, limit, rows, columns, widths):
    elements = st.integers(-limit, limit)
    integers = data.draw(arrays(np.int16, (rows, columns), elements=elements))
    matrix = pack(integers, widths)
    assert matrix.shape == integers.shape
    np.testing.assert_array_equal(matrix.unscaled(), integers)
    indices = np.arange(columns)[::-1]
    expected = (integers * matrix.column_steps)[:, ::-1].T.astype(np.float32)
    np.testing.assert_array_equal(matrix.columns(indices), expected)


@pytest.mark.parametrize(("bits", "largest"), LARGEST.items())
def test_a_tile_takes_the_fewest_bits(bits, largest):
    integers = np.ones((64, 32), np.int16)
    integers[40, 20] = largest
    matrix = pack(integers, [32])
    assert [LAYOUTS[i].bits for i in matrix.low.layouts] == [3, 3, 3, bits]
    assert matrix.overflow_tiles.size == 0
    integers[40, 20] = -largest - 1
    assert pack(integers, [32]).layout.bits == bits


def test_integers_past_two_times_8_bits_are_refused():
    with pytest.raises(OverflowError, match="32640"):
        pack(np.array([[0, 32640]], np.int16), [1])


def test_only_tiles_with_integers_past_8_bits_have_a_second():
    integers = np.ones((64, 48), np.int16)
    integers[33, 17] = 128
    integers[0, 47] = -32765
    matrix = pack(integers, [48])
    assert matrix.overflow_tiles.tolist() == [3, 4]
    assert [LAYOUTS[i].bits for i in matrix.overflow.layouts] == [3, 8]
    assert matrix.nbytes < 2 * 64 * 48


@pytest.mark.parametrize("form", FORMS)
@given(rows=st.integers(1, 40), columns=st.integers(1, 60), seed=st.integers(0, 99))
def test_a_weight_is_its_level_times_both_steps(form, rows, columns, seed):
    matrix = random_matrix(np.random.default_rng(seed), rows, columns, form)
    expected = matrix.unscaled() * matrix.row_steps[:, None] * matrix.column_steps
    np.testing.assert_array_equal(matrix.dense(), expected)
    indices = np.arange(columns)[::-1]
    found = matrix.columns(indices)
    np.testing.assert_array_equal(found, expected.T[::-1])
    assert found.flags.c_contiguous


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_stored_panels_are_not_copied(layout):
    codes = np.random.default_rng(0).integers(0, 2**layout.bits, (40, 20)).astype(np.uint8)
    values = panel_layout.pack(codes, layout.bits)
    ones = np.ones(40, np.float32), np.ones(20, np.float32)
    matrix = PanelMatrix.of_one_layout(values, layout, *ones, (40, 20))
    assert np.shares_memory(matrix.low.values, values)
    np.testing.assert_array_equal(matrix.unscaled(), layout.levels[codes])


def test_a_matrix_goes_to_another_process_without_its_addresses():
    matrix = random_matrix(np.random.default_rng(0), 40, 20, "wide")
    own = matrix.record["values"][0]
    again = pickle.loads(pickle.dumps(matrix))
    assert again.layout is matrix.layout
    assert again.record["values"][0] != own
    np.testing.assert_array_equal(again.dense(), matrix.dense())


def test_an_arena_holds_the_same_matrix():
    arena = Arena()
    for form in FORMS:
        matrix = random_matrix(np.random.default_rng(1), 70, 40, form)
        placed = matrix.placed(arena)
        assert not np.shares_memory(placed.low.values, matrix.low.values)
        assert not placed.low.values.flags.writeable
        np.testing.assert_array_equal(placed.dense(), matrix.dense())


def test_an_arena_takes_more_than_a_chunk():
    arena = Arena()
    sizes = [1, 70 << 20, 3, 40 << 20, 40 << 20]
    placed = [arena.place(np.full(size, i, np.uint8)) for i, size in enumerate(sizes)]
    assert [array.size for array in placed] == sizes
    assert all((array == i).all() for i, array in enumerate(placed))
