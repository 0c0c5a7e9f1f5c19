import heapq
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import entropy_decoder

from rbe_cli.codec.ectcq import trellis
from rbe_cli.codec.ectcq.trellis import DEFAULT_OPTIONS, PARITY_CHECKS, QuantiserOptions
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER, MAX_LEVEL, MIN_LEVEL, entropy_tables
from rbe_cli.codec.entropy.symbol_programs import next_state, symbol_of
from rbe_cli.errors import UsageError
from rbe_cli.runtime.instruction_sets import available
from rbe_cli.runtime.libraries import QUANTISE_SEGMENT
from rbe_cli.runtime.native import load

TABLES = entropy_tables()
FLOATS = st.floats(-6, 6, width=32)
OPTIONS = st.builds(
    QuantiserOptions,
    st.sampled_from(list(PARITY_CHECKS)),
    st.sampled_from([7, 8, 9, 10, MAX_INTEGER]),
)


def python_of(program):
    """Return the Python function that is compiled."""
    return program.py_func


def quantise(
    target, row_level, column_levels, rate_weight, start=0, options=DEFAULT_OPTIONS, width=15,
    own=None,
):  # fmt: skip
    """Return (integers, end state); `own` is the instruction set."""
    columns = len(target)
    out = np.empty(columns, np.int32)
    search = trellis.make_search(columns, replace(options, rate_weight=rate_weight))
    target, column_levels = np.asarray(target, np.float32), np.asarray(column_levels, np.int16)
    widths = np.full(-(-columns // trellis.PANEL), width, np.uint8)
    (quantise_segment,) = load([QUANTISE_SEGMENT], own)
    return out, quantise_segment(target, row_level, column_levels, widths, *search, out, start)


def path(qs, state=0, states=8):
    """Return (trellis integers for a segment's q, end state)."""
    integers = []
    for q in qs:
        integers.append(2 * q + entropy_decoder.state_offset(state, states))
        state = entropy_decoder.next_state(state, q, states)
    return integers, state


@cache
def bits(n, level):
    level = min(max(level, MIN_LEVEL), MAX_LEVEL) - MIN_LEVEL
    return float(TABLES.bits[level, n & 1, python_of(symbol_of)(n >> 1, TABLES.shift[level])])


def cost(integers, weights, rate_weight):
    """Return squared error + rate_weight x bits of a segment, whose weights are (target, level)."""
    return sum(
        (x - n) ** 2 + rate_weight * bits(n, level)
        for n, (x, level) in zip(integers, weights, strict=True)
    )


# The trellises


@pytest.mark.parametrize("states", PARITY_CHECKS)
def test_walk_is_that_of_the_reference(states):
    labels = trellis.state_labels(states).tolist()
    for (state, label), q in product(enumerate(labels), range(-4, 5)):
        assert label >> 1 == entropy_decoder.state_offset(state, states)
        expected = entropy_decoder.next_state(state, q, states)
        assert python_of(next_state)(state, label, q, states) == expected


@pytest.mark.parametrize("states", PARITY_CHECKS)
def test_every_state_has_two_successors_and_two_predecessors(states):
    edges = {(s, entropy_decoder.next_state(s, q, states)) for s in range(states) for q in (0, 1)}
    assert len(edges) == 2 * states
    for state in range(states):
        assert sum(after == state for _, after in edges) == 2


@pytest.mark.parametrize(("states", "distance"), [(8, 10), (16, 11), (32, 13), (64, 14)])
def test_free_distances_are_those_of_ungerboeck_s_table(states, distance):
    """It is the least squared distance of two paths that part and meet again (1982, table I).

    The codes are linear, so that it is the least weight of a path from state 0 back to it.
    """
    weight = {0: 0, 1: 1, 2: 4, 3: 1}  # the least square of an integer of a residue modulo 4
    heap, seen = [(weight[2], entropy_decoder.next_state(0, 1, states))], set()
    while heap[0][1] != 0:
        so_far, state = heapq.heappop(heap)
        if state in seen:
            continue
        seen.add(state)
        for q in (0, 1):
            residue = 2 * q + entropy_decoder.state_offset(state, states)
            after = entropy_decoder.next_state(state, q, states)
            heapq.heappush(heap, (so_far + weight[residue], after))
    assert heap[0][0] == distance


@pytest.mark.parametrize("states", [0, 4, 7, 9, 128, -8])
def test_other_numbers_of_states_are_refused(states):
    with pytest.raises(UsageError, match=f"8, 16, 32 or 64 states, not {states}"):
        QuantiserOptions(states)


@pytest.mark.parametrize("largest", [-1, 0, 6, MAX_INTEGER + 1])
def test_other_limits_are_refused(largest):
    with pytest.raises(UsageError, match=f"from 7 to {MAX_INTEGER}, not {largest}"):
        QuantiserOptions(8, largest)


# The search


@given(
    target=arrays(np.float32, 3, elements=FLOATS | st.floats(-12, 12, width=32)),
    row_level=st.integers(MIN_LEVEL - 10, 30),
    column_levels=arrays(np.int16, 3, elements=st.integers(-12, 12)),
    rate_weight=st.floats(0, 1),
    start=st.integers(0, 63),
    options=OPTIONS,
    width=st.sampled_from([1, 2, 3, 15]),
)
def test_no_path_costs_less(target, row_level, column_levels, rate_weight, start, options, width):
    start %= options.states
    weights = list(zip(target.tolist(), (row_level + column_levels).tolist(), strict=True))
    # From 0 to x / 2, and 2 further on either side: beyond, errors grow and no bits are saved.
    searched = [range(min(round(x / 2), 0) - 2, max(round(x / 2), 0) + 3) for x, _ in weights]
    paths = (path(qs, start, options.states)[0] for qs in product(*searched))
    largest = min(options.max_integer, 2**width - 1)
    allowed = (p for p in paths if max(p) <= largest and min(p) >= -largest - 1)
    least = min(cost(integers, weights, rate_weight) for integers in allowed)
    found, _ = quantise(target, row_level, column_levels, rate_weight, start, options, width)
    assert -largest - 1 <= found.min() <= found.max() <= largest
    assert cost(found.tolist(), weights, rate_weight) == pytest.approx(least)


@given(
    target=arrays(np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False)),
    row_level=st.integers(-400, 400),
    rate_weight=st.floats(0, 1),
    start=st.integers(0, 63),
    options=OPTIONS,
)
def test_output_is_a_path_within_bounds(target, row_level, rate_weight, start, options):
    start %= options.states
    found, end = quantise(target, row_level, np.zeros(len(target)), rate_weight, start, options)
    assert path((found >> 1).tolist(), start, options.states) == (found.tolist(), end)
    assert found.max() <= options.max_integer
    assert found.min() >= -options.max_integer - 1


@given(
    target=arrays(np.float32, st.integers(1, 70), elements=FLOATS | st.floats(-4e4, 4e4, width=32)),
    row_level=st.integers(-400, 400),
    rate_weight=st.floats(0, 1),
    options=OPTIONS,
)
def test_every_instruction_set_finds_the_same_path(target, row_level, rate_weight, options):
    levels = np.arange(len(target)) % 40 - 20
    expected, *others = (
        quantise(target, row_level, levels, rate_weight, 5, options, own=own) for own in available()
    )
    for found in others:
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]


@given(
    stretches=st.lists(arrays(np.float32, st.integers(1, 20), elements=FLOATS), min_size=2),
    rate_weight=st.floats(0, 1),
    options=OPTIONS,
)
def test_a_stretch_continues_the_path_of_the_one_before(stretches, rate_weight, options):
    integers, state = [], 0
    for target in stretches:
        found, state = quantise(target, 8, np.zeros(len(target)), rate_weight, state, options)
        integers += found.tolist()
    assert path([n >> 1 for n in integers], 0, options.states) == (integers, state)


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


@pytest.mark.parametrize("largest", [7, 100, MAX_INTEGER])
@pytest.mark.parametrize("sign", [-1, 1])
def test_integers_are_clipped(sign, largest):
    target, options = np.full(50, sign * 1e9, np.float32), QuantiserOptions(8, largest)
    found = sign * quantise(target, MAX_LEVEL, np.zeros(50), 0.1, 0, options)[0]
    assert found.min() >= largest - 8
    assert found.max() <= largest + 1


def test_granular_gain():
    """8 states gain about 1.0 dB over a uniform quantiser of the same spacing (Marcellin 1994).

    More states gain more, up to the limit of 1.53 dB.
    """
    target = np.random.default_rng(0).uniform(-20, 20, 16000).astype(np.float32)
    gains = []
    for states in PARITY_CHECKS:
        found, _ = quantise(target, MAX_LEVEL, np.zeros(16000), 0.0, 0, QuantiserOptions(states))
        gains.append(10 * np.log10(2**2 / 12 / np.mean((target - found) ** 2)))
    assert 0.9 < gains[0] < 1.2
    assert (np.diff(gains) > 0.03).all()
    assert gains[-1] < 1.53


def test_dearer_bits_are_fewer():
    target = np.random.default_rng(0).normal(0, 2, 400).astype(np.float32)
    rates = [
        sum(bits(n, 8) for n in quantise(target, 8, np.zeros(400), rate_weight)[0].tolist())
        for rate_weight in (0.0, 0.2, 1.0)
    ]
    assert rates[0] > rates[1] > rates[2]
