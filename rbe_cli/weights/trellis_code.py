"""Say which integers a trellis allows: the codes that the codec `ectcq` and kernels share.

An integer is n = 2 q + z. With u the bits that are shifted into the state of the trellis, one a
column, z and the lowest bit of q are sums modulo 2 of the u of a column and of the columns
before it. So a column's u and the high bits of q say all of n.

The trellises are those of Ungerboeck's codes for amplitude modulation (1982, "Channel coding with
multilevel/phase signals", table I).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbe_cli.runtime.arrays import Float32, Int64

PARITY_CHECKS = {8: (0o13, 0o04), 16: (0o23, 0o04), 32: (0o45, 0o10), 64: (0o103, 0o024)}
"""Maps the number of states to Ungerboeck's parity-check polynomials h0 and h1."""
STATES = tuple(PARITY_CHECKS)


class Taps(NamedTuple):
    """Say how many columns before its own the bits lie that are added, modulo 2.

    Attributes:
        parity: those of the lowest bit of q, beside the column's own u.
        offset: those of z.
    """

    parity: tuple[int, ...]
    offset: tuple[int, ...]


def taps(states: int) -> Taps:
    """Return the taps of the trellis with that many states."""
    h0, h1 = PARITY_CHECKS[states]
    before = range(1, h0.bit_length())
    return Taps(*(tuple(k for k in before if check >> k & 1) for check in (h0, h1)))


class TrellisBlock(NamedTuple):
    """Hold a block of columns, in the order of the trellis. Each row is a path from state 0.

    Attributes:
        columns: the columns of the matrix that the block holds.
        order: int64 `[B]`, the place in `columns` of each column along the trellis.
        integers: int16 `[K, B]`.
        steps: float32 `[B]`, the steps of the columns.
    """

    columns: slice
    order: Int64
    integers: NDArray[np.int16]
    steps: Float32
