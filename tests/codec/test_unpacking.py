"""The compiled way from coded blocks to panels, against the decoder and the packer in numpy."""

import numpy as np
import pytest
from examples import examples
from hypothesis import example, given
from hypothesis import strategies as st
from trellis_integers import onto_trellis

from rbe_cli.codec import scales
from rbe_cli.codec.column_blocks import MAX_COLUMNS, column_blocks, sorted_order
from rbe_cli.codec.ectcq.coded_matrix import CodedMatrix
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, HybridBlock, _code
from rbe_cli.codec.ectcq.unpacking import Unpacking, UnpackingMemory
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER
from rbe_cli.errors import PayloadError
from rbe_cli.runtime.arena import Arena
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.thread_team import get_team
from rbe_cli.weights.trellis_code import STATES
from rbe_cli.weights.trellis_panels import TrellisPanels


def encoded(shape, spread, seed=0, wide=0.0, states=8):
    """A matrix of integers of a Gaussian spread, some of which are as wide as there are."""
    rng = np.random.default_rng(seed)
    blocks = []
    for own in column_blocks(shape[1]):
        size = shape[0], own.stop - own.start
        targets = spread * rng.standard_normal(size)
        targets[rng.random(size) < wide] *= MAX_INTEGER
        columns = scales.column_levels(targets.astype(np.float32))
        along = columns[sorted_order(columns)]
        integers = onto_trellis(targets.clip(-MAX_INTEGER, MAX_INTEGER - 1), MAX_INTEGER, states)
        integers = integers.astype(np.int32)
        steps = rng.integers(-9, 9, size[1]).astype(np.int16)
        levels = scales.row_levels(integers, along), columns, steps
        blocks.append(_code(integers, along, levels, states))
    return EncodedMatrix(shape, 0.01, tuple(blocks), states)


def unpacked(matrices, team=None, times=1):
    unpacking = Unpacking(matrices, UnpackingMemory([matrices], team.threads if team else 1))
    for _ in range(times):
        unpacking.run(team)
    return [unpacking.panels(index) for index in range(len(matrices))]


def assert_same(found, matrix):
    expected = TrellisPanels.from_blocks(matrix.shape, matrix.blocks_along_trellis(), matrix.states)
    for name in ("values", "widths", "lanes", "follows", "row_steps", "column_steps"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    for name in ("tiles", "bits", "values"):
        own = getattr(found.overflow, name)
        np.testing.assert_array_equal(own, getattr(expected.overflow, name), name)
        assert own.dtype == getattr(expected.overflow, name).dtype
    assert (found.states, found.shape) == (expected.states, expected.shape)


@examples(60)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 60)),
    spread=st.sampled_from([0.0, 0.4, 3.0, 9.0, 60.0, 900.0]),
    seed=st.integers(0, 99),
    wide=st.sampled_from([0.0, 0.01, 0.5]),
    states=st.sampled_from(STATES),
)
@example(shape=(32, 16), spread=3.0, seed=0, wide=0.0, states=8)
@example(shape=(70, 60), spread=900.0, seed=0, wide=0.5, states=64)
def test_panels_are_those_of_the_packer_in_numpy(shape, spread, seed, wide, states):
    matrix = encoded(shape, spread, seed, wide, states)
    for instructions in available():
        (found,) = unpacked([matrix], get_team(1, instructions))
        assert_same(found, matrix)


def matrices():
    return [
        encoded((40, 2 * MAX_COLUMNS + 1), 5.0, 0),
        encoded((33, 20), 5.0, 1, wide=0.1),
        encoded((64, MAX_COLUMNS), 40.0, 2, wide=0.001, states=64),
        encoded((3, 5), 1.0, 3),
    ]


@pytest.mark.parametrize("instructions", available(), ids=lambda own: own.name)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("times", [1, 3])
def test_matrices_lie_one_after_the_other(instructions, threads, times):
    own = matrices()
    for found, matrix in zip(
        unpacked(own, get_team(threads, instructions), times), own, strict=True
    ):
        assert_same(found, matrix)


def test_batches_share_memory():
    own = matrices()
    batches = [own[:1], own[1:]]
    memory = UnpackingMemory(batches, 1)
    unpackings = [Unpacking(batch, memory) for batch in batches]
    for turn in (0, 1, 0, 1, 1, 0):
        unpackings[turn].run()
        for index, matrix in enumerate(batches[turn]):
            assert_same(unpackings[turn].panels(index), matrix)


def test_an_arena_takes_back_what_is_not_used():
    own, arena = matrices(), Arena()
    memory = UnpackingMemory([own], 1, arena)
    unpacking = Unpacking(own, memory)
    unpacking.run()
    used = sum(unpacking.panels(index).values.size for index in range(len(own)))
    assert unpacking.unused_bytes == memory.values.size - used
    arena.give_back(unpacking.unused_bytes)
    after = arena.zeros(1)
    assert after.ctypes.data == memory.values.ctypes.data + used
    assert after[0] == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_damaged_matrix_leaves_the_others_whole(threads):
    own = matrices()
    block = own[1].blocks[0]
    words = block.words.copy()
    words[3] ^= 1
    for damaged in (words, block.words[:-1], block.words[:0], np.append(block.words, words[:1])):
        broken = HybridBlock(block.scale_models, block.states, damaged)
        changed = [own[0], EncodedMatrix(own[1].shape, 0.01, (broken,), 8), *own[2:]]
        unpacking = Unpacking(changed, UnpackingMemory([changed], threads))
        unpacking.run(get_team(threads))
        with pytest.raises(PayloadError, match="words do not end"):
            unpacking.panels(1)
        for index in (0, 2, 3):
            assert_same(unpacking.panels(index), own[index])


def test_steps_that_are_too_large_are_refused():
    matrix = encoded((3, 5), 1.0)
    large = EncodedMatrix(matrix.shape, 1e38, matrix.blocks, matrix.states)
    with pytest.raises(PayloadError, match="steps are too large"):
        unpacked([large])


def test_a_decoded_matrix_has_memory_of_its_own():
    matrix = encoded((40, 30), 9.0, wide=0.1)
    found = CodedMatrix(matrix).decoded()
    assert_same(found, matrix)
    assert found.values.base is None
    assert found.overflow.values.base is None
