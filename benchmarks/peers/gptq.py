"""Quantise by GPTQ (Frantar et al. 2022, arXiv 2210.17323, algorithm 1).

Activation order and clipped grids are options of the authors' code, and are used.

Rows are rounded one after another, those of the largest inputs first, and those still to come
make up for each error, as the second moment of the layer's inputs tells.
"""

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.grid import GROUP, Grid, grid_bits
from benchmarks.peers.quantised import Float32, QuantisedMatrix

DAMPING = 0.01  # of the mean of the moment's diagonal, the paper's
GROUP_INDEX_BITS = 8  # a row: with activation order, neighbours belong to different groups


def quantise(weights: Float32, moment: Float32, bits: int) -> QuantisedMatrix:
    """Quantise weights `[K, N]` for inputs whose E[x x^T] is `moment` `[K, K]`."""
    rows, columns = weights.shape
    order = np.argsort(-np.diagonal(moment), kind="stable")
    factor = _inverse_factor(moment[np.ix_(order, order)])
    left = weights[order]  # what the rows still to come should be, errors so far included
    rounded = np.empty_like(left)
    for start in range(0, rows, GROUP):
        stop = min(start + GROUP, rows)
        grid = Grid.search(left[start:stop], bits)
        errors = np.empty((stop - start, columns), np.float32)
        for row in range(start, stop):
            rounded[row] = grid.nearest(left[row])
            error = (left[row] - rounded[row]) / factor[row, row]
            left[row + 1 : stop] -= np.outer(factor[row, row + 1 : stop], error)
            errors[row - start] = error
        left[stop:] -= factor[start:stop, stop:].T @ errors
    decoded = np.empty_like(weights)
    decoded[order] = rounded
    return QuantisedMatrix(decoded, grid_bits((rows, columns), bits) + rows * GROUP_INDEX_BITS)


def _inverse_factor(moment: Float32) -> Float32:
    """Return U `[K, K]`, upper triangular, with U^T U the inverse of the damped moment."""
    damped: NDArray[np.float64] = moment.astype(np.float64)
    damped[np.diag_indices_from(damped)] += DAMPING * np.mean(np.diagonal(damped))
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
