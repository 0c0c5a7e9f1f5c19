import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_panels import LARGEST
from trellis_integers import blocks_of, joined, onto_trellis

from rbe_cli.codec.ectcq.trellis import state_labels
from rbe_cli.weights import trellis_layout
from rbe_cli.weights.trellis_code import STATES, TrellisBlock, taps
from rbe_cli.weights.trellis_panels import TrellisPanels

LIMITS = [1, 3, 7, 15, 31, 63, 127, 129, 255, 257, 2001, LARGEST]


def pack(targets, limit, states=8, width=100, seed=0):
    """(the panels, their integers in the order of the matrix)."""
    steps = np.linspace(0.5, 2, targets.shape[1], dtype=np.float32)
    blocks = list(blocks_of(targets, steps, limit, states, width, seed))
    matrix = TrellisPanels.from_blocks(targets.shape, blocks, states)
    np.testing.assert_array_equal(matrix.column_steps, steps)
    return matrix, joined(blocks, targets.shape)


@given(
    states=st.sampled_from(STATES),
    limit=st.sampled_from(LIMITS),
    rows=st.integers(1, 70),
    columns=st.integers(1, 100),
    width=st.integers(1, 70),
    seed=st.integers(0, 999),
)
def test_packing_is_lossless(states, limit, rows, columns, width, seed):
    rng = np.random.default_rng(seed)
    targets = rng.uniform(-limit, limit, (rows, columns)) * rng.integers(0, 2, (rows, 1))
    matrix, integers = pack(targets, limit, states, width, seed)
    assert matrix.shape == integers.shape
    np.testing.assert_array_equal(matrix.unscaled(), integers)
    indices = rng.permutation(columns)
    expected = (integers * matrix.column_steps)[:, indices].T.astype(np.float32)
    np.testing.assert_array_equal(matrix.columns(indices), expected)


@pytest.mark.parametrize("width", trellis_layout.WIDTHS)
def test_a_tile_takes_the_fewest_bits(width):
    limit = 2**width - 1
    targets = np.full((64, 32), -0.5)
    targets[40] = limit
    matrix, integers = pack(targets, limit)
    assert integers.max() > limit // 2
    assert matrix.widths.tolist() == [[1, width], [1, width]]
    assert matrix.values.nbytes == 64 * (2 + 2 * width)
    assert matrix.overflow.tiles.size == 0


def test_only_tiles_with_integers_past_8_bits_have_a_second():
    targets = np.full((64, 48), -0.5)
    targets[33, 17], targets[0, 47] = 130, -32763
    steps = np.ones(48, np.float32)
    own = onto_trellis(targets, LARGEST)
    block = TrellisBlock(slice(0, 48), np.arange(48), own, steps)
    matrix = TrellisPanels.from_blocks((64, 48), [block], 8)
    assert matrix.overflow.tiles.tolist() == [3, 4]
    assert matrix.overflow.bits.tolist() == [1, 8]
    np.testing.assert_array_equal(matrix.unscaled(), own)


def test_a_block_begins_with_a_panel_of_its_own():
    matrix, _ = pack(np.zeros((10, 50)), 7, width=20)
    assert matrix.follows.tolist() == [0, 1, 0, 1, 0]
    assert (matrix.lanes < 0).sum(axis=1).tolist() == [0, 12, 0, 12, 6]
    assert sorted(matrix.lanes[matrix.lanes >= 0]) == list(range(50))


@pytest.mark.parametrize("states", STATES)
def test_the_bits_are_those_that_the_trellis_of_the_codec_shifts_in(states):
    integers = onto_trellis(np.random.default_rng(1).normal(0, 20, (5, 60)), 127, states)
    bits = trellis_layout.shift_bits(integers, taps(states))
    labels = state_labels(states)
    for row, own in zip(integers, bits, strict=True):
        state = 0
        for n, u in zip(row.tolist(), own.tolist(), strict=True):
            label = int(labels[state])
            assert n & 1 == label >> 1
            assert u == (n >> 1 & 1) ^ (label & 1)
            state = (2 * state | u) % states


def test_integers_of_no_path_are_refused():
    block = TrellisBlock(slice(0, 1), np.zeros(1, int), np.ones((1, 1), np.int16), np.ones(1))
    with pytest.raises(ValueError, match="not a path"):
        TrellisPanels.from_blocks((1, 1), [block], 8)


@pytest.mark.parametrize("width", trellis_layout.WIDTHS)
def test_fields_take_every_bit_once(width):
    """Each bit of the vectors is one bit of a code, and each bit of the codes has one place."""
    stored, codes = [], []
    for quad, fields in enumerate(trellis_layout.FIELDS[width]):
        for vector, bit, count, target in fields:
            stored += [(vector, bit + i) for i in range(count)]
            codes += [(quad, target + i) for i in range(count)]
    assert sorted(stored) == [(vector, bit) for vector in range(width - 1) for bit in range(8)]
    assert sorted(codes) == [(quad, bit) for quad in range(8) for bit in range(2, width + 1)]
