"""Define the trellis of ECTCQ, entropy-coded trellis-coded quantisation.

The method is that of Fischer and Wang (1992) and Marcellin (1994). A row of weights is quantised
to integers n = 2 q + z. z follows from the state of the trellis, and the next state follows from
the state and the lowest bit of q, so that the integers are decoded from q without side information.
weights/trellis_code.py lists the trellises. More states give smaller errors at the same rate, and
take longer to search. The encoder finds the path with the smallest squared error + lambda x bits by
the Viterbi algorithm. The bits are those of the entropy model.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER, Labels, entropy_tables
from rbe_cli.errors import UsageError
from rbe_cli.weights.trellis_code import PARITY_CHECKS

WIDEST = 15  # the bits of a width that limits no integer, without its sign
PANEL = 16  # columns that share a width (tile_widths.py), and whose candidates are found at once
_SMALLEST_LIMIT = 7


@dataclass(frozen=True)
class QuantiserOptions:
    """The options of the quantiser that maps weights to integers.

    Attributes:
        states: the number of states of the trellis: 8, 16, 32 or 64.
        max_integer: all integers lie in [-max_integer - 1, max_integer]. It is at least 7.
        rate_weight: lambda of the search, squared steps per bit.
    """

    states: int = 8
    max_integer: int = MAX_INTEGER
    rate_weight: float = 0.25

    def __post_init__(self) -> None:
        """Raise `UsageError` if a value is not supported."""
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
    """Return the label of each state, which restricts the next integer, uint8 `[states]`.

    Bit 1 is z, the parity of (state << 1) & h1. Bit 0 is the parity of (state << 1) & h0: the
    lowest bit of q if the bit that is shifted into the state is 0, and its complement if 1.
    """
    h0, h1 = PARITY_CHECKS[states]
    registers = [2 * state for state in range(states)]
    parities = [((r & h1).bit_count() & 1, (r & h0).bit_count() & 1) for r in registers]
    return np.array([2 * z + parity for z, parity in parities], np.uint8)


class Search(NamedTuple):
    """The data that all searches of a block share (trellis_programs.py).

    Attributes:
        labels: the labels of the states (`state_labels`).
        subsets: float64 `[16, 4, 3]`: for a width w, which keeps n in [-2 ** w, 2 ** w), and for
            each (z, q & 1) the residue of n modulo 4, the smallest and the largest n.
        rate_weight: lambda, in squared steps per bit.
        bits, shift: the fields of `EntropyTables`.
        weights: scratch, float32 `[padded]`, with the columns padded to a multiple of 16.
        levels: scratch, int32 `[padded]`, the weights' levels in the entropy tables.
        choices: scratch, int32 `[padded, 4]`, the best q for each (z, q & 1).
        costs: scratch, float64 `[padded, 4]`, its cost.
        decisions: scratch, uint8 `[columns, states]`, 1 if the top bit of the predecessor is set.
            With 8 states, the bits of the first byte stand for the states.
        metrics: scratch, float64 `[2, states]`, the costs of paths.
    """

    labels: Labels
    subsets: NDArray[np.float64]
    rate_weight: float
    bits: NDArray[np.float32]
    shift: NDArray[np.int64]
    weights: NDArray[np.float32]
    levels: NDArray[np.int32]
    choices: NDArray[np.int32]
    costs: NDArray[np.float64]
    decisions: NDArray[np.uint8]
    metrics: NDArray[np.float64]


def make_search(columns: int, options: QuantiserOptions) -> Search:
    """Return a search with room for segments of `columns` columns."""
    residues = [z + 2 * parity for z in (0, 1) for parity in (0, 1)]
    highest = [min(2**width - 1, options.max_integer) for width in range(WIDEST + 1)]
    subsets = [[(r, (r + h + 1) % 4 - h - 1, h - (h - r) % 4) for r in residues] for h in highest]
    tables, padded = entropy_tables(), -(-columns // PANEL) * PANEL
    return Search(
        labels=state_labels(options.states),
        subsets=np.array(subsets, np.float64),
        rate_weight=options.rate_weight,
        bits=tables.bits,
        shift=tables.shift,
        weights=np.empty(padded, np.float32),
        levels=np.empty(padded, np.int32),
        choices=np.empty((padded, 4), np.int32),
        costs=np.empty((padded, 4)),
        decisions=np.empty((columns, options.states), np.uint8),
        metrics=np.empty((2, options.states)),
    )
