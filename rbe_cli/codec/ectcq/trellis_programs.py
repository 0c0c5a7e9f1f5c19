"""Run the trellis (trellis.py) in compiled code: the Viterbi search."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.ectcq.trellis import PANEL, Search
from rbe_cli.codec.ectcq.trellis_vectors import (
    STATES,
    advance,
    load_paths,
    store_candidates,
    store_paths,
)
from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER, MAX_LEVEL, MIN_LEVEL
from rbe_cli.runtime.array_views import address_of_array
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import LANES

_SUBSETS_BYTES = 4 * 3 * 8  # of a width (`Search.subsets`)


@program_code
def _find_candidates(
    arithmetic: Any,
    target: NDArray[np.float32],
    row_level: int,
    column_levels: NDArray[np.int16],
    widths: NDArray[np.uint8],
    search: Search,
) -> None:
    """Write the choices and costs of a segment's weights into the search."""
    weights, levels = search.weights, search.levels
    columns = target.shape[0]
    padded = (columns + LANES - 1) // LANES * LANES
    limit = np.float32(MAX_INTEGER)
    for j in range(columns):
        weights[j] = min(max(target[j], -limit), limit)
        level = min(max(row_level + column_levels[j], MIN_LEVEL), MAX_LEVEL)
        levels[j] = np.int32(level - MIN_LEVEL)
    for j in range(columns, padded):
        weights[j] = np.float32(0)
        levels[j] = np.int32(0)
    subsets, bits = address_of_array(search.subsets), address_of_array(search.bits)
    shift = address_of_array(search.shift)
    first_weight, first_level = address_of_array(weights), address_of_array(levels)
    costs, choices = address_of_array(search.costs), address_of_array(search.choices)
    for j in range(0, padded, LANES):
        own = subsets + _SUBSETS_BYTES * np.int64(widths[j // PANEL])
        store_candidates(
            arithmetic, first_weight + 4 * j, first_level + 4 * j, own, search.rate_weight,
            bits, shift, costs + 32 * j, choices + 16 * j,
        )  # fmt: skip


@program_code
def _search_8_states(columns: int, search: Search, out: NDArray[np.int32], start: int) -> int:
    """Search the best path of a trellis of 8 states, all of them in one vector."""
    labels, choices, decisions = search.labels, search.choices, search.decisions
    search.metrics[0, :] = np.inf
    search.metrics[0, start] = 0.0
    own = address_of_array(search.metrics)
    costs, decided = address_of_array(search.costs), address_of_array(decisions)
    metrics = load_paths(own)
    for j in range(columns):
        metrics = advance(metrics, costs + 32 * j, decided + STATES * j)
    store_paths(own, metrics)
    end = state = int(np.argmin(search.metrics[0]))
    for j in range(columns - 1, -1, -1):
        u = state & 1
        top = (np.int64(decisions[j, 0]) >> state) & 1
        state = int((state >> 1) | (top * (STATES // 2)))
        label = np.int64(labels[state])
        out[j] = 2 * choices[j, label ^ u] + (label >> 1)
    return end


@program_code
def _search_states(columns: int, search: Search, out: NDArray[np.int32], start: int) -> int:
    """Search the best path of a trellis of any number of states."""
    labels, choices, decisions = search.labels, search.choices, search.decisions
    states, cost = labels.shape[0], search.costs
    half = states >> 1
    metric, updated = search.metrics[0], search.metrics[1]
    metric[:] = np.inf
    metric[start] = 0.0
    for j in range(columns):
        for a in range(half):
            # The top bit is set in h0 and not in h1. Therefore the states a and a + half have
            # the same z and different parities. Both lead to the states 2 a and 2 a + 1.
            label = labels[a]
            same, flipped = cost[j, label], cost[j, label ^ 1]
            low, high = metric[a], metric[a + half]
            decisions[j, 2 * a] = high + flipped < low + same
            decisions[j, 2 * a + 1] = high + same < low + flipped
            updated[2 * a] = min(low + same, high + flipped)
            updated[2 * a + 1] = min(low + flipped, high + same)
        metric, updated = updated, metric
    end = state = int(np.argmin(metric))
    for j in range(columns - 1, -1, -1):
        u = state & 1
        state = (state >> 1) | (decisions[j, state] * half)
        label = labels[state]
        out[j] = 2 * choices[j, label ^ u] + (label >> 1)
    return end


@program_code
def quantise_segment(
    arithmetic: Any,
    target: NDArray[np.float32],
    row_level: int,
    column_levels: NDArray[np.int16],
    widths: NDArray[np.uint8],
    search: Search,
    out: NDArray[np.int32],
    start: int,
) -> int:
    """Choose the integers of a segment of a row by the Viterbi algorithm, ending in any state.

    Args:
        arithmetic: the instruction set.
        target: `[columns]`, weights in units of the step.
        row_level, column_levels: their sum is the level of each weight in the entropy model.
        widths: for every `PANEL` columns, the width of their integers (`Search.subsets`).
        search: a search with room for the columns.
        out: `[columns]`, receives n = 2 q + z.
        start: the state of the trellis before the segment.

    Returns:
        The state after the segment.
    """
    _find_candidates(arithmetic, target, row_level, column_levels, widths, search)
    if search.labels.shape[0] == STATES:
        return _search_8_states(target.shape[0], search, out, start)
    return _search_states(target.shape[0], search, out, start)


@program_code
def quantise_segment_program(
    arithmetic: Any,
    target: NDArray[np.float32],
    row_level: int,
    column_levels: NDArray[np.int16],
    widths: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    subsets: NDArray[np.float64],
    rate_weight: float,
    bits: NDArray[np.float32],
    shift: NDArray[np.int64],
    scaled: NDArray[np.float32],
    levels: NDArray[np.int32],
    choices: NDArray[np.int32],
    costs: NDArray[np.float64],
    decisions: NDArray[np.uint8],
    metrics: NDArray[np.float64],
    out: NDArray[np.int32],
    start: int,
) -> int:
    """Run `quantise_segment` with the fields of its search as separate arguments."""
    search = Search(
        labels, subsets, rate_weight, bits, shift, scaled, levels, choices, costs, decisions,
        metrics,
    )  # fmt: skip
    return quantise_segment(
        arithmetic, target, row_level, column_levels, widths, search, out, start
    )
