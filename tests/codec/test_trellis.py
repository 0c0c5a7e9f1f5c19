from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rbe_cli.codec import reference, trellis
from rbe_cli.codec.entropy_model import MAX_INTEGER, MAX_LEVEL, MIN_LEVEL, entropy_tables

TABLES = entropy_tables()
FLOATS = st.floats(-6, 6, width=32)
STATES = st.integers(0, trellis.STATES - 1)


def quantise(target, row_level, column_levels, rate_weight, start=0):
    """(integers, end state)."""
    columns = len(target)
    out = np.empty(columns, np.int32)
    end = trellis.quantise_segment(
        np.asarray(target, np.float32),
        row_level,
        np.asarray(column_levels, np.int16),
        rate_weight,
        TABLES.bits,
        TABLES.shift,
        np.empty((columns, 4), np.int32),
        np.empty((columns, trellis.STATES), np.uint8),
        out,
        start,
    )
    return out, end


def path(qs, state=0):
    """(trellis integers of a stretch's q, end state)."""
    integers = []
    for q in qs:
        integers.append(2 * q + reference.state_offset(state))
        state = reference.next_state(state, q)
    return integers, state


@cache
def bits(n, level):
    level = min(max(level, MIN_LEVEL), MAX_LEVEL) - MIN_LEVEL
    return float(TABLES.bits[level, n & 1, trellis.symbol_of(n >> 1, TABLES.shift[level])])


def cost(integers, weights, rate_weight):
    """Squared error + rate_weight x bits of a stretch, whose weights are (target, level)."""
    return sum(
        (x - n) ** 2 + rate_weight * bits(n, level)
        for n, (x, level) in zip(integers, weights, strict=True)
    )


def test_walk_is_that_of_the_reference():
    for state, q in product(range(trellis.STATES), range(-4, 5)):
        assert trellis.state_offset(state) == reference.state_offset(state)
        assert trellis.next_state(state, q) == reference.next_state(state, q)


def test_every_state_has_two_successors_and_two_predecessors():
    edges = {(s, trellis.next_state(s, q)) for s in range(trellis.STATES) for q in (0, 1)}
    assert len(edges) == 2 * trellis.STATES
    for state in range(trellis.STATES):
        assert sum(after == state for _, after in edges) == 2


@settings(max_examples=40, deadline=None)
@given(
    target=arrays(np.float32, 4, elements=FLOATS),
    row_level=st.integers(MIN_LEVEL - 10, 30),
    column_levels=arrays(np.int16, 4, elements=st.integers(-12, 12)),
    rate_weight=st.floats(0, 1),
    start=STATES,
)
def test_no_path_costs_less(target, row_level, column_levels, rate_weight, start):
    weights = list(zip(target.tolist(), (row_level + column_levels).tolist(), strict=True))
    # From 0 to x / 2, and 2 further on either side: beyond, errors grow and no bits are saved.
    searched = [range(min(round(x / 2), 0) - 2, max(round(x / 2), 0) + 3) for x, _ in weights]
    least = min(cost(path(qs, start)[0], weights, rate_weight) for qs in product(*searched))
    found, _ = quantise(target, row_level, column_levels, rate_weight, start)
    assert cost(found.tolist(), weights, rate_weight) == pytest.approx(least)


@settings(deadline=None)
@given(
    target=arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False)),
    row_level=st.integers(-400, 400),
    rate_weight=st.floats(0, 1),
    start=STATES,
)
def test_output_is_a_path_within_bounds(target, row_level, rate_weight, start):
    found, end = quantise(target, row_level, np.zeros(len(target)), rate_weight, start)
    assert path((found >> 1).tolist(), start) == (found.tolist(), end)
    assert np.abs(found).max() <= MAX_INTEGER


@settings(deadline=None)
@given(
    stretches=st.lists(arrays(np.float32, st.integers(1, 20), elements=FLOATS), min_size=2),
    rate_weight=st.floats(0, 1),
)
def test_a_stretch_continues_the_path_of_the_one_before(stretches, rate_weight):
    integers, state = [], 0
    for target in stretches:
        found, state = quantise(target, 8, np.zeros(len(target)), rate_weight, state)
        integers += found.tolist()
    assert path([n >> 1 for n in integers]) == (integers, state)


def test_stretches_cost_little_more_than_a_row_at_once():
    target = np.random.default_rng(0).normal(0, 4, 640).astype(np.float32)
    levels = np.zeros(32, np.int16)
    state, apart = 0, []
    for stretch in target.reshape(-1, 32):
        found, state = quantise(stretch, 16, levels, 0.25, state)
        apart += found.tolist()
    at_once, _ = quantise(target, 16, np.zeros(640), 0.25)
    weights = [(x, 16) for x in target.tolist()]
    least = cost(at_once.tolist(), weights, 0.25)
    assert least <= cost(apart, weights, 0.25) <= 1.05 * least


@pytest.mark.parametrize("sign", [-1, 1])
def test_integers_are_clipped(sign):
    target = np.full(50, sign * 1e9, np.float32)
    found = sign * quantise(target, MAX_LEVEL, np.zeros(50), 0.1)[0]
    assert found.min() >= MAX_INTEGER - 8
    assert found.max() <= MAX_INTEGER


def test_granular_gain():
    """8 states gain about 1.0 dB over a uniform quantiser of the same spacing (Marcellin 1994)."""
    target = np.random.default_rng(0).uniform(-20, 20, 4000).astype(np.float32)
    found, _ = quantise(target, MAX_LEVEL, np.zeros(4000), 0.0)
    gain = 2**2 / 12 / np.mean((target - found) ** 2)
    assert 0.9 < 10 * np.log10(gain) < 1.2


def test_dearer_bits_are_fewer():
    target = np.random.default_rng(0).normal(0, 2, 400).astype(np.float32)
    rates = [
        sum(bits(n, 8) for n in quantise(target, 8, np.zeros(400), rate_weight)[0].tolist())
        for rate_weight in (0.0, 0.2, 1.0)
    ]
    assert rates[0] > rates[1] > rates[2]
