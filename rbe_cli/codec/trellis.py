"""Entropy-coded trellis quantisation (ECTCQ; Fischer and Wang 1992, Marcellin 1994).

A row of weights is written as integers n = 2 q + z. z is a function of the trellis's
state alone, and the next state follows from q's lowest bit, so the integers decode from
q without side information. The trellises are those of Ungerboeck's codes for amplitude
modulation (1982, "Channel coding with multilevel/phase signals", table I): more states
err less at the same rate, and take longer to search. The encoder finds the path of least
squared error + lambda x bits with the Viterbi algorithm, bits being what the entropy
model charges.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy_model import (
    ESCAPE,
    MAX_INTEGER,
    MAX_LEVEL,
    MIN_LEVEL,
    SYMBOL_OFFSET,
    entropy_tables,
)
from rbe_cli.errors import UsageError
from rbe_cli.jit import jit

Labels = NDArray[np.uint8]
PARITY_CHECKS = {8: (0o13, 0o04), 16: (0o23, 0o04), 32: (0o45, 0o10), 64: (0o103, 0o024)}
"""Number of states -> Ungerboeck's parity-check polynomials h0 and h1."""
_SMALLEST_LIMIT = 7


@dataclass(frozen=True)
class QuantiserOptions:
    """How weights become integers.

    Attributes:
        states: of the trellis, 8, 16, 32 or 64.
        max_integer: no integer leaves [-max_integer - 1, max_integer]; 7 at least.
    """

    states: int = 8
    max_integer: int = MAX_INTEGER

    def __post_init__(self) -> None:
        """Raises `UsageError` if there is no such quantiser."""
        if self.states not in PARITY_CHECKS:
            raise UsageError(f"a trellis has 8, 16, 32 or 64 states, not {self.states}")
        if not _SMALLEST_LIMIT <= self.max_integer <= MAX_INTEGER:
            raise UsageError(
                f"the largest integer is from {_SMALLEST_LIMIT} to {MAX_INTEGER}, "
                f"not {self.max_integer}"
            )


DEFAULT_OPTIONS = QuantiserOptions()


@cache
def state_labels(states: int) -> Labels:
    """What a state says of the integer after it, uint8 `[states]`.

    Bit 1 is z, the parity of (state << 1) & h1. Bit 0 is the parity of (state << 1) & h0: q's
    lowest bit where the bit that is shifted into the state is 0, its complement where it is 1.
    """
    h0, h1 = PARITY_CHECKS[states]
    registers = [2 * state for state in range(states)]
    parities = [((r & h1).bit_count() & 1, (r & h0).bit_count() & 1) for r in registers]
    return np.array([2 * z + parity for z, parity in parities], np.uint8)


@jit()
def next_state(state: int, label: int, q: int, states: int) -> int:
    """The state after a state of this label and q: it takes in q's lowest bit ^ the parity."""
    return ((state << 1) | ((q ^ label) & 1)) & (states - 1)


@jit()
def symbol_of(q: int, shift: int) -> int:
    """The table symbol of q; `ESCAPE` if its high part is outside the table."""
    symbol = (q >> shift) + SYMBOL_OFFSET
    return symbol if 0 <= symbol < ESCAPE else ESCAPE


class Search(NamedTuple):
    """What every search of a block has in common; compiled code takes it whole.

    Attributes:
        labels: of the trellis's states.
        subsets: float64 `[4, 3]`, the residue modulo 4, the lowest and the highest of the integers
            n that each (z, q & 1) may take.
        rate_weight: lambda, squared steps a bit.
        bits, shift: of `EntropyTables`.
        choices: scratch, int32 `[columns, 4]`, the best q for each (z, q & 1).
        decisions: scratch, uint8 `[columns, states]`, 1 where the predecessor's top bit is set.
    """

    labels: Labels
    subsets: NDArray[np.float64]
    rate_weight: float
    bits: NDArray[np.float32]
    shift: NDArray[np.int64]
    choices: NDArray[np.int32]
    decisions: NDArray[np.uint8]


def make_search(columns: int, options: QuantiserOptions, rate_weight: float) -> Search:
    """A search with room for stretches of so many columns."""
    low, high = -options.max_integer - 1, options.max_integer
    residues = [z + 2 * parity for z in (0, 1) for parity in (0, 1)]
    subsets = [(r, low + (r - low) % 4, high - (high - r) % 4) for r in residues]
    tables = entropy_tables()
    return Search(
        labels=state_labels(options.states),
        subsets=np.array(subsets, np.float64),
        rate_weight=rate_weight,
        bits=tables.bits,
        shift=tables.shift,
        choices=np.empty((columns, 4), np.int32),
        decisions=np.empty((columns, options.states), np.uint8),
    )


@jit()
def _bits(q: int, level: int, z: int, search: Search) -> float:
    """What the entropy model charges for q."""
    symbol = symbol_of(q, search.shift[np.uint64(level)])
    return search.bits[np.uint64(level), np.uint64(z), np.uint64(symbol)]


@jit()
def _best(x: float, level: int, subset: int, search: Search) -> tuple[float, int]:
    """The least cost that a weight x has with an integer of a subset, and the integer's q."""
    z, subsets = subset >> 1, search.subsets
    residue, lowest, highest = subsets[subset, 0], subsets[subset, 1], subsets[subset, 2]
    near = min(max(4.0 * np.rint(0.25 * (x - residue)) + residue, lowest), highest)
    cheaper = near - 4.0 if near > 0.0 else near + 4.0  # in bits: the next one towards 0
    q, other = (int(near) - z) >> 1, (int(cheaper) - z) >> 1
    cost = (x - near) ** 2 + search.rate_weight * _bits(q, level, z, search)
    second = (x - cheaper) ** 2 + search.rate_weight * _bits(other, level, z, search)
    return (second, other) if second < cost else (cost, q)


@jit()
def quantise_segment(
    target: NDArray[np.float32],
    row_level: int,
    column_levels: NDArray[np.int16],
    search: Search,
    out: NDArray[np.int32],
    start: int,
) -> int:
    """Integers of a stretch of a row by the Viterbi algorithm, ending in any state.

    Args:
        target: `[columns]`, weights in units of the step.
        row_level, column_levels: their sum is each weight's level in the entropy model.
        search: its scratch has room for the columns.
        out: `[columns]`, receives n = 2 q + z.
        start: the trellis state before the stretch.

    Returns:
        The state after it.
    """
    labels, choices, decisions = search.labels, search.choices, search.decisions
    columns, states = target.shape[0], labels.shape[0]
    half = states >> 1
    metric = np.full(states, np.inf)
    metric[start] = 0.0
    updated = np.empty(states)
    cost = np.empty(4)
    for j in range(columns):
        level = min(max(row_level + column_levels[j], MIN_LEVEL), MAX_LEVEL) - MIN_LEVEL
        x = min(max(float(target[j]), -MAX_INTEGER), MAX_INTEGER)
        for subset in range(4):
            cost[subset], choices[j, subset] = _best(x, level, subset, search)
        for a in range(half):
            # h0 has its top bit set and h1 has not: the states a and a + half share z, and
            # differ in the parity. Both lead to the states 2 a and 2 a + 1.
            label = labels[a]
            same, flipped = cost[label], cost[label ^ 1]
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
