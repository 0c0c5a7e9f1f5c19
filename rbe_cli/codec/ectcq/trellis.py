"""Quantise by an entropy-coded trellis (ECTCQ; Fischer and Wang 1992, Marcellin 1994).

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

from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER, Labels, entropy_tables
from rbe_cli.errors import UsageError

PARITY_CHECKS = {8: (0o13, 0o04), 16: (0o23, 0o04), 32: (0o45, 0o10), 64: (0o103, 0o024)}
"""Number of states -> Ungerboeck's parity-check polynomials h0 and h1."""
_SMALLEST_LIMIT = 7


@dataclass(frozen=True)
class QuantiserOptions:
    """Say how weights become integers.

    Attributes:
        states: of the trellis, 8, 16, 32 or 64.
        max_integer: no integer leaves [-max_integer - 1, max_integer]; 7 at least.
    """

    states: int = 8
    max_integer: int = MAX_INTEGER

    def __post_init__(self) -> None:
        """Raise `UsageError` if there is no such quantiser."""
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
    """Return what a state says of the integer after it, uint8 `[states]`.

    Bit 1 is z, the parity of (state << 1) & h1. Bit 0 is the parity of (state << 1) & h0: q's
    lowest bit where the bit that is shifted into the state is 0, its complement where it is 1.
    """
    h0, h1 = PARITY_CHECKS[states]
    registers = [2 * state for state in range(states)]
    parities = [((r & h1).bit_count() & 1, (r & h0).bit_count() & 1) for r in registers]
    return np.array([2 * z + parity for z, parity in parities], np.uint8)


class Search(NamedTuple):
    """Hold what all searches of a block share (trellis_programs.py).

    Attributes:
        labels: of the trellis's states.
        subsets: float64 `[4, 3]`, the residue modulo 4, the lowest and the highest of the integers
            n that each (z, q & 1) may take.
        rate_weight: lambda, squared steps a bit.
        bits, shift: of `EntropyTables`.
        choices: scratch, int32 `[columns, 4]`, the best q for each (z, q & 1).
        decisions: scratch, uint8 `[columns, states]`, 1 where the predecessor's top bit is set.
        metrics: scratch, float64 `[2, states]`, the costs of paths.
        costs: scratch, float64 `[4]`, of a weight's best q for each (z, q & 1).
    """

    labels: Labels
    subsets: NDArray[np.float64]
    rate_weight: float
    bits: NDArray[np.float32]
    shift: NDArray[np.int64]
    choices: NDArray[np.int32]
    decisions: NDArray[np.uint8]
    metrics: NDArray[np.float64]
    costs: NDArray[np.float64]


def make_search(columns: int, options: QuantiserOptions, rate_weight: float) -> Search:
    """Return a search with room for stretches of so many columns."""
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
        metrics=np.empty((2, options.states)),
        costs=np.empty(4),
    )
