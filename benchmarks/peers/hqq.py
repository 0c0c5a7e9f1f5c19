"""Quantise by HQQ (half-quadratic; Badri & Shaji 2023, https://mobiusml.github.io/hqq_blog).

The scale is that of the least and the largest weight; the zero minimises |W - W'|^p, p < 1, so
that a few outliers do not rule it. Constants are the defaults of the authors' code; groups run
along the inputs (its `axis=1`), which came out better than its `axis=0`.
"""

import numpy as np

from benchmarks.peers.quantised import Float32, QuantisedMatrix

GROUP = 64  # inputs that share a scale and a zero, for each output
SCALE_BITS = ZERO_BITS = 16
NORM = 0.7  # p
BETA, BETA_GROWTH = 10.0, 1.01  # weight of the quadratic term
ITERATIONS = 20
TINY = np.float32(1e-30)


def quantise(weights: Float32, bits: int) -> QuantisedMatrix:
    """Quantise each group of `[K, N]` with its own scale and zero."""
    rows, columns = weights.shape
    decoded = np.empty_like(weights)
    for start in range(0, rows, GROUP):
        decoded[start : start + GROUP] = _quantise_group(weights[start : start + GROUP], bits)
    groups = -(-rows // GROUP)
    return QuantisedMatrix(
        decoded, weights.size * bits + groups * columns * (SCALE_BITS + ZERO_BITS)
    )


def _quantise_group(weights: Float32, bits: int) -> Float32:
    """Return `[k, N]` as it decodes, by the zeros of the least absolute errors."""
    low, high = weights.min(axis=0), weights.max(axis=0)  # [N]
    scale = _as_stored((high - low) / (2**bits - 1))
    scale[scale == 0] = 1
    zero = -low / scale
    if bits == 4:  # as in their code
        zero = np.rint(zero)
    decoded, beta = np.empty_like(weights), BETA
    least = np.full_like(scale, np.inf)
    for _ in range(ITERATIONS):
        stored = _as_stored(zero)
        integers = np.clip(np.rint(weights / scale + stored), 0, 2**bits - 1)
        values = scale * (integers - stored)
        error = weights - values
        sums = np.abs(error).sum(axis=0)
        better = sums < least
        least[better] = sums[better]
        decoded[:, better] = values[:, better]
        zero = np.mean(integers - (weights - _shrink(error, beta)) / scale, axis=0)
        beta *= BETA_GROWTH
    return decoded


def _shrink(error: Float32, beta: float) -> Float32:
    """Apply the generalised soft threshold: about the least of |e|^p + beta / 2 (e - error)^2."""
    size = np.maximum(np.abs(error), TINY)
    return np.sign(error) * np.maximum(size - size ** np.float32(NORM - 1) / np.float32(beta), 0)


def _as_stored(values: Float32) -> Float32:
    return values.astype(np.float16).astype(np.float32)
