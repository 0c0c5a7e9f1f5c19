"""Random second moments of inputs, and weights."""

import numpy as np

from rbe_cli.codec.error_cost import OutputFactor


def correlated(size, seed, rank=None, decay=1.0):
    """X^T X / n, float32 `[size, size]`, of vectors whose spectrum falls as 1 / k ** decay."""
    rng = np.random.default_rng(seed)
    rank = size if rank is None else rank
    spectrum = np.arange(1, rank + 1.0) ** -decay
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    vectors = rng.normal(size=(8 * size, rank)) * spectrum @ basis[:rank]
    return (vectors.T @ vectors / len(vectors)).astype(np.float32)


def random_weights(rows, columns, seed):
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def output_factor(moment, damping):
    """Return the factor of a moment, for columns of equal size."""
    return OutputFactor.from_moment(moment, damping, np.zeros(len(moment), np.int16))
