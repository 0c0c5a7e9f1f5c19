"""Round to nearest, on a grid from the least to the largest weight of each group."""

import numpy as np

from benchmarks.peers.grid import GROUP, Grid, grid_bits
from benchmarks.peers.quantised import Float32, QuantisedMatrix


def quantise(weights: Float32, bits: int) -> QuantisedMatrix:
    """Round each group of `[K, N]` on its own grid."""
    rounded = np.empty_like(weights)
    for start in range(0, len(weights), GROUP):
        group = weights[start : start + GROUP]
        rounded[start : start + GROUP] = Grid.fit(group, bits).nearest(group)
    return QuantisedMatrix(rounded, grid_bits((weights.shape[0], weights.shape[1]), bits))
