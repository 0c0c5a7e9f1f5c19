import ctypes
import mmap
import sys
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
from deadlines import run_python
from examples import examples
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import entropy_decoder

from rbe_cli.codec import scales
from rbe_cli.codec.column_blocks import strided_order
from rbe_cli.codec.ectcq.encoded_matrix import HybridBlock
from rbe_cli.codec.ectcq.trellis import PARITY_CHECKS, state_labels
from rbe_cli.codec.entropy import rans
from rbe_cli.codec.entropy.entropy_model import (
    ESCAPE,
    MAX_INTEGER,
    MAX_LEVEL,
    MIN_LEVEL,
    SYMBOL_OFFSET,
    entropy_tables,
)
from rbe_cli.errors import PayloadError
from rbe_cli.runtime import native
from rbe_cli.runtime.instruction_sets import available

LARGEST_Q = (MAX_INTEGER - 1) // 2
SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 9))
INT16 = st.integers(-(2**15), 2**15 - 1)
STATES = st.sampled_from(list(PARITY_CHECKS))


def paths(qs, states=8):
    """Return the trellis integers for any q, int32 `[K, B]`."""
    integers = np.empty(qs.shape, np.int32)
    for row, values in enumerate(qs.tolist()):
        state = 0
        for column, q in enumerate(values):
            integers[row, column] = 2 * q + entropy_decoder.state_offset(state, states)
            state = entropy_decoder.next_state(state, q, states)
    return integers


def random_block(shape, seed, largest=LARGEST_Q, spread=60, states=8):
    """Return (integers, levels of rows, columns and steps), independent and of any magnitude."""
    rng = np.random.default_rng(seed)
    magnitudes = np.exp(rng.uniform(0, np.log(largest + 1), shape)) - 0.5
    qs = np.rint(magnitudes * rng.choice([-1, 1], shape)).clip(-largest - 1, largest)
    rows = rng.integers(-spread, 2 * spread, shape[0]).astype(np.int16)
    columns, steps = rng.integers(-spread, spread, (2, shape[1])).astype(np.int16)
    return paths(qs.astype(np.int32), states), rows, columns, steps


def encode(integers, rows, columns, steps, models=None, states=8):
    if models is None:
        models = [scales.scale_model(levels) for levels in (rows, columns, steps)]
    models = np.array(models, np.int16)
    labels = state_labels(states)
    coded = rans.encode(integers, columns, rows, columns, steps, models, labels)
    return HybridBlock(models, *coded)


def decode(block, shape, states=8):
    """Return integers and levels of a block, along the trellis, whose order is strided."""
    labels = state_labels(states)
    reader = rans.BlockReader(block.states, block.words, block.scale_models, labels, shape)
    return reader.integers(reader.columns), reader.rows, reader.columns, reader.steps


def assert_decodes_to(block, integers, rows, columns, steps, states=8):
    """Check that the fast decoder finds all levels, and that both find integers and step levels."""
    shape = integers.shape
    order = strided_order(shape[1])
    values, *levels = decode(block, shape, states)
    np.testing.assert_array_equal(values, integers)
    for found, original in zip(levels, (rows, columns, steps), strict=True):
        np.testing.assert_array_equal(found, original)
    assert {found.dtype for found in (values, *levels)} == {np.dtype(np.int16)}
    slow_values, slow_steps = entropy_decoder.decode_block(block, shape, states)
    np.testing.assert_array_equal(slow_values[:, order], values)
    np.testing.assert_array_equal(slow_steps[order], steps)


def ideal_bits(block, integers, rows, columns, steps):
    """Return the bits of a block's levels and integers by the tables."""
    tables = entropy_tables()

    def bits(q, z, level):
        level = np.clip(level, MIN_LEVEL, MAX_LEVEL) - MIN_LEVEL
        symbol = (q >> tables.shift[level]) + SYMBOL_OFFSET
        symbol = np.where((symbol >= 0) & (symbol < ESCAPE), symbol, ESCAPE)
        return tables.bits[level, z, symbol].sum(dtype=np.float64)

    models = block.scale_models.astype(np.int64)
    of_levels = [
        bits(levels - mean, 0, level)
        for levels, (mean, level) in zip((rows, columns, steps), models, strict=True)
    ]
    return sum(of_levels) + bits(
        integers >> 1, integers & 1, rows[:, None].astype(np.int64) + columns
    )


def outcome(decoder, *arguments):
    """Return what is decoded, or None if it is refused."""
    try:
        return decoder(*arguments)
    except PayloadError:
        return None


@given(
    shape=SHAPES,
    seed=st.integers(0, 999),
    row_model=st.none() | st.tuples(INT16, INT16),
    states=STATES,
)
@example(shape=(1, 1), seed=0, row_model=None, states=8)
@example(shape=(1, 200), seed=0, row_model=None, states=64)
@example(shape=(200, 1), seed=0, row_model=None, states=8)
@example(shape=(32, 3), seed=0, row_model=None, states=8)
@example(shape=(33, 3), seed=0, row_model=None, states=8)
@example(shape=(3, 33), seed=0, row_model=None, states=32)
def test_roundtrip(shape, seed, row_model, states):
    parts = random_block(shape, seed, states=states)
    models = None
    if row_model is not None:
        mean, level = row_model
        models = [(mean % 2**14, level), *map(scales.scale_model, parts[2:])]
    assert_decodes_to(encode(*parts, models, states), *parts, states)


@pytest.mark.parametrize("level", [-(2**15), MIN_LEVEL, 0, 30, MAX_LEVEL, 2**15 - 1])
@pytest.mark.parametrize("q", [-LARGEST_Q - 1, -1, 0, 1, LARGEST_Q])
def test_roundtrip_at_the_extremes(level, q):
    shape = (40, 3)
    rows, zeros = np.full(40, level, np.int16), np.zeros(3, np.int16)
    steps = np.full(3, level, np.int16)
    parts = paths(np.full(shape, q)), rows, zeros, steps
    assert_decodes_to(encode(*parts), *parts)


def test_levels_may_come_in_another_order_than_columns():
    integers, rows, columns, steps = random_block((5, 7), 0)
    order, labels = np.array([3, 0, 6, 1, 5, 2, 4]), state_labels(8)
    models = np.array([scales.scale_model(own) for own in (rows, columns, steps)], np.int16)
    coded = rans.encode(integers, columns[order], rows, columns, steps, models, labels)
    reader = rans.BlockReader(*coded, models, labels, (5, 7))
    np.testing.assert_array_equal(reader.columns, columns)
    np.testing.assert_array_equal(reader.integers(columns[order]), integers)


@pytest.mark.parametrize(("largest", "spread"), [(3, 8), (40, 16), (LARGEST_Q, 90)])
def test_size_is_what_the_tables_charge(largest, spread):
    parts = random_block((64, 64), 0, largest, spread)
    block = encode(*parts)
    ideal = ideal_bits(block, *parts)
    flushed = 16 * rans.LANES  # the half of each state that holds no symbol
    coded = 16 * block.words.size + 32 * block.states.size
    assert ideal <= coded <= 1.01 * ideal + flushed + 16 * rans.LANES


def test_near_certain_weights_take_no_space():
    zeros, level = np.zeros(64, np.int16), np.full(64, MIN_LEVEL, np.int16)
    parts = np.zeros((64, 64), np.int32), level, zeros, zeros
    block = encode(*parts)
    assert block.words.size <= 2 * rans.LANES
    assert_decodes_to(block, *parts)


@examples(150)
@given(
    shape=SHAPES,
    seed=st.integers(0, 99),
    part=st.sampled_from(["scale_models", "states", "words"]),
    where=st.integers(0, 999),
    change=st.integers(1, 2**32 - 1),
    states=STATES,
)
def test_a_changed_number_is_refused_or_decoded_as_by_the_reference(
    shape, seed, part, where, change, states
):
    parts = random_block(shape, seed, 4, 20, states)
    block = encode(*parts, None, states)
    damaged = getattr(block, part).reshape(-1)
    assume(damaged.size)
    damaged.view(f"u{damaged.itemsize}")[where % damaged.size] ^= change % 2 ** (
        8 * damaged.itemsize
    )
    fast = outcome(decode, block, shape, states)
    slow = outcome(entropy_decoder.decode_block, block, shape, states)
    assert (fast is None) == (slow is None)
    if fast is not None:
        order = strided_order(shape[1])
        np.testing.assert_array_equal(fast[0], slow[0][:, order])
        np.testing.assert_array_equal(fast[3], slow[1][order])


@pytest.mark.parametrize("decoder", [decode, entropy_decoder.decode_block])
def test_words_too_few_and_too_many(decoder):
    block = encode(*random_block((20, 20), 0))
    for words in (block.words[:-1], block.words[:0], np.append(block.words, np.uint16(0))):
        with pytest.raises(PayloadError, match="words"):
            decoder(HybridBlock(block.scale_models, block.states, words), (20, 20), 8)


@pytest.mark.parametrize("decoder", [decode, entropy_decoder.decode_block])
@pytest.mark.parametrize("shape", [(19, 20), (20, 19), (21, 20), (20, 21), (40, 10)])
def test_another_shape(decoder, shape):
    block = encode(*random_block((20, 20), 0))
    with pytest.raises(PayloadError, match="words"):
        decoder(block, shape, 8)


@given(
    values=arrays(np.int16, st.integers(0, 60), elements=st.integers(-40, 40) | INT16),
    level=INT16,
)
def test_a_run_comes_back(values, level):
    state, words = rans.encode_run(values, level)
    np.testing.assert_array_equal(rans.decode_run(state, words, level, values.size), values)
    for changed in [np.append(words, np.uint16(7)), words[:-1]][: 1 + (words.size > 0)]:
        with pytest.raises(PayloadError, match="words do not end"):
            rans.decode_run(state, changed, level, values.size)


def likely_block(shape, seed, level, escapes, states):
    """Return what `random_block` does, with integers that are likely at about that level."""
    rng = np.random.default_rng(seed)
    rows = (level + rng.integers(-9, 9, shape[0])).astype(np.int16)
    columns, steps = rng.integers(-9, 9, (2, shape[1])).astype(np.int16)
    sigmas = 2.0 ** ((rows[:, None] + columns) / 8)
    qs = np.rint(sigmas * rng.standard_normal(shape) / 2)
    qs[rng.random(shape) < escapes] *= 100
    return paths(qs.clip(-LARGEST_Q - 1, LARGEST_Q).astype(np.int32), states), rows, columns, steps


@examples(60)
@given(
    shape=st.tuples(st.sampled_from([1, 31, 32, 33, 64, 70]), st.integers(1, 40)),
    seed=st.integers(0, 999),
    level=st.integers(MIN_LEVEL - 9, MAX_LEVEL),
    escapes=st.sampled_from([0, 0.001, 0.3]),
    states=STATES,
)
@example(shape=(64, 40), seed=0, level=20, escapes=0, states=8)
@example(shape=(64, 40), seed=0, level=29, escapes=0.001, states=64)
def test_every_instruction_set_decodes_alike(shape, seed, level, escapes, states):
    parts = likely_block(shape, seed, level, escapes, states)
    block = encode(*parts, None, states)
    for instructions in available():
        with patch.object(rans, "load", partial(native.load, instructions=instructions)):
            assert_decodes_to(block, *parts, states)


@examples(30)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 999),
    level=st.integers(MIN_LEVEL - 9, MAX_LEVEL),
    escapes=st.sampled_from([0, 0.001, 0.3]),
    states=STATES,
)
def test_every_instruction_set_encodes_alike(shape, seed, level, escapes, states):
    parts = likely_block(shape, seed, level, escapes, states)
    expected = encode(*parts, None, states)
    for instructions in available():
        with patch.object(rans, "load", partial(native.load, instructions=instructions)):
            found = encode(*parts, None, states)
        np.testing.assert_array_equal(found.states, expected.states)
        np.testing.assert_array_equal(found.words, expected.words)


@examples(30)
@given(values=arrays(np.int16, st.integers(0, 60)), level=st.integers(MIN_LEVEL, MAX_LEVEL))
def test_every_instruction_set_codes_runs_alike(values, level):
    state, words = rans.encode_run(values, level)
    for instructions in available():
        with patch.object(rans, "load", partial(native.load, instructions=instructions)):
            own_state, own_words = rans.encode_run(values, level)
            decoded = rans.decode_run(state, words, level, values.size)
        assert own_state == state
        np.testing.assert_array_equal(own_words, words)
        np.testing.assert_array_equal(decoded, values)


@pytest.mark.skipif(sys.platform == "win32", reason="pages are protected in another way there")
@pytest.mark.parametrize("instructions", available())
@pytest.mark.parametrize("level", [0, 40])
def test_nothing_is_read_after_the_words(instructions, level, monkeypatch):
    """The page after the words must not be read, which would end the process."""
    monkeypatch.setattr(rans, "load", partial(native.load, instructions=instructions))
    parts = likely_block((64, 20), 0, level, 0.001, 8)
    block = encode(*parts)
    page = mmap.PAGESIZE
    size = -(-block.words.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    last = np.frombuffer(memory, np.uint8, page, size)
    assert protect(ctypes.c_void_p(last.ctypes.data), ctypes.c_size_t(page), 0) == 0
    for count in (block.words.size, block.words.size - 1, 3):
        words = np.frombuffer(memory, np.uint16, count, size - 2 * count)
        words[:] = block.words[:count]
        found = outcome(decode, HybridBlock(block.scale_models, block.states, words), (64, 20))
        assert (found is None) == (count != block.words.size)
        if found is not None:
            np.testing.assert_array_equal(found[0], parts[0])


FORGE = """
import numpy as np
from rbe_cli.codec.entropy import rans
from rbe_cli.codec.ectcq.trellis import state_labels
from rbe_cli.errors import PayloadError
from rbe_cli.runtime import native, object_files
from rbe_cli.runtime.libraries import RANS_DECODE

object_files.SHIPPED = object_files.cache_folder() / "none"  # compiled anew
rng = np.random.default_rng(0)
extremes = np.array([-(2**15), -25, -24, 0, 95, 96, 2**15 - 1])
refused = 0
for _ in range(500):
    shape = tuple(rng.integers(1, 70, 2))
    words = rng.integers(0, 2**16, rng.integers(0, 3000)).astype(np.uint16)
    states = rng.choice([0, 1, 2**16, 2**32 - 1, rng.integers(2**32)], 32).astype(np.uint32)
    models = rng.choice(extremes, (3, 2)).astype(np.int16)
    labels = state_labels(int(rng.choice([8, 16, 32, 64])))
    try:
        reader = rans.BlockReader(states, words, models, labels, shape)
        reader.integers(np.sort(reader.columns))
    except PayloadError:
        refused += 1
    try:
        rans.decode_run(int(states[0]), words, int(models[0, 0]), shape[0])
    except PayloadError:
        refused += 1

# The checks are on: too few words of bits are found.
(decode_block,) = native.load([RANS_DECODE])
levels, states = np.zeros(1, np.int16), np.full(32, 2**16, np.uint32)
try:
    decode_block(
        *rans._source(states, np.zeros(99, np.uint16), np.ones(6, np.int64)), 0, levels,
        levels, np.zeros(8, np.uint32), np.empty(32, np.int16), np.empty((1, 1), np.int16),
    )
except RuntimeError:
    print(refused)
"""


def test_forged_blocks_reach_no_foreign_memory(tmp_path):
    """Compiled code does not check indices by default. This runs a decoder that does."""
    environment = {"NUMBA_BOUNDSCHECK": "1", "RBE_CACHE_DIR": str(tmp_path)}
    process = run_python(FORGE, env={"PYTHONPATH": ":".join(sys.path), **environment})
    assert process.stderr == ""
    assert process.stdout == "1000\n"
