import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_panels import FORMS, UNIFORM, random_matrix
from trellis_integers import blocks_of

from rbe_cli.runtime.arena import Arena
from rbe_cli.weights import panel_layout
from rbe_cli.weights.trellis_panels import TrellisPanels
from rbe_cli.weights.uniform_panels import UniformPanels


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


@pytest.mark.parametrize("layout", UNIFORM.values(), ids=lambda layout: layout.name)
def test_stored_panels_are_not_copied(layout):
    codes = np.random.default_rng(0).integers(0, 2**layout.bits, (40, 20)).astype(np.uint8)
    values = panel_layout.pack(codes, layout.bits).reshape(-1)
    ones = np.ones(40, np.float32), np.ones(20, np.float32)
    matrix = UniformPanels(values, layout, *ones, (40, 20))
    assert np.shares_memory(matrix.values, values)
    np.testing.assert_array_equal(matrix.unscaled(), layout.levels[codes])


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_goes_to_another_process_without_its_addresses(form):
    matrix = random_matrix(np.random.default_rng(0), 40, 20, form)
    own = matrix.record["values"][0]
    again = pickle.loads(pickle.dumps(matrix))
    assert again.record["values"][0] != own
    np.testing.assert_array_equal(again.dense(), matrix.dense())


def test_a_matrix_has_one_record():
    matrix = random_matrix(np.random.default_rng(0), 40, 20, FORMS[0])
    assert matrix.record is matrix.record  # kernels keep its address


@pytest.mark.parametrize("form", FORMS)
def test_its_bytes_are_those_of_its_arrays(form):
    matrix = random_matrix(np.random.default_rng(0), 70, 40, form)
    arrays = [own for own in vars(matrix).values() if isinstance(own, np.ndarray)]
    if form not in UNIFORM:
        overflow = matrix.overflow
        arrays += [overflow.tiles, overflow.bits, overflow.values]
    assert matrix.nbytes == sum(own.nbytes for own in arrays) > matrix.values.nbytes


def test_an_arena_takes_more_than_a_chunk():
    arena = Arena()
    sizes = [1, 70 << 20, 3, 40 << 20, 40 << 20]
    placed = [arena.zeros(size) for size in sizes]
    for i, array in enumerate(placed):
        array[:] = i
    assert [array.size for array in placed] == sizes
    assert all((array == i).all() for i, array in enumerate(placed))


def test_narrow_levels_are_coarse():
    """Prompts meet them with activations of 8 bits."""
    rng = np.random.default_rng(0)
    coarse = {form: random_matrix(rng, 40, 20, form).is_coarse for form in UNIFORM}
    assert coarse == {"even2": True, "bent4": True, "int8": False}
    for limit, expected in ((3, True), (7, True), (15, False)):
        targets = rng.uniform(-limit, limit, (64, 32))
        blocks = blocks_of(targets, np.ones(32, np.float32), limit)
        assert TrellisPanels.from_blocks((64, 32), blocks, 8).is_coarse == expected
