"""Causal multi-head attention with a KV cache (Vaswani et al. 2017, section 3.2)."""

import numpy as np
from numba import prange

from rbe_cli.jit import jit
from rbe_cli.kernels import reference
from rbe_cli.kernels.arrays import Float32, Int64, Mask
from rbe_cli.kernels.exponential import exp
from rbe_cli.kernels.sums import dot, total
from rbe_cli.kernels.threads import make_launcher


def attention(
    threads: int,
    qkv: Float32,
    keys: Float32,
    values: Float32,
    rows: Int64,
    starts: Int64,
    scale: float,
    out: Float32,
    mask: Mask | None = None,
    weights: Float32 | None = None,
) -> None:
    """As `rbe_cli.kernels.reference.attention`, by at most `threads` threads.

    Masks and weights, which no generation asks for, are left to that.
    """
    if mask is not None or weights is not None:
        reference.attention(qkv, keys, values, rows, starts, scale, out, mask, weights)
        return
    work = out.size * 2 * (int(starts.max()) + qkv.shape[1])
    make_launcher(threads)(
        _attention, work, qkv, keys, values, rows, starts, np.float32(scale), out
    )


@jit(parallel=True)
def _attention(
    qkv: Float32,
    keys: Float32,
    values: Float32,
    rows: Int64,
    starts: Int64,
    scale: np.float32,
    out: Float32,
) -> None:
    heads = keys.shape[1]
    for pair in prange(qkv.shape[0] * heads):
        item, head = pair // heads, pair % heads
        row = rows[item]
        _attend(qkv[item], keys[row, head], values[row, head], head, starts[item], scale, out[item])


@jit()
def _attend(
    qkv: Float32,
    keys: Float32,
    values: Float32,
    head: int,
    start: int,
    scale: np.float32,
    out: Float32,
) -> None:
    """One head of one sequence: qkv `[seq, 3 * d]`, cache `[capacity, head_dim]`."""
    seq, width = out.shape
    head_dim = keys.shape[1]
    first = head * head_dim
    for t in range(seq):
        for i in range(head_dim):
            keys[start + t, i] = qkv[t, width + first + i]
            values[start + t, i] = qkv[t, 2 * width + first + i]
    query, mixed = np.empty(head_dim, np.float32), np.empty(head_dim, np.float32)
    weights = np.empty(start + seq, np.float32)
    for t in range(seq):
        length = start + t + 1
        for i in range(head_dim):
            query[i] = qkv[t, first + i] * scale
            mixed[i] = 0
        largest = np.float32(-np.inf)
        for j in range(length):
            weights[j] = dot(query, keys[j])
            largest = max(largest, weights[j])
        for j in range(length):
            weights[j] = exp(weights[j] - largest)
        sum_of_weights = total(weights[:length])
        for j in range(length):
            for i in range(head_dim):
                mixed[i] += weights[j] * values[j, i]
        for i in range(head_dim):
            out[t, first + i] = mixed[i] / sum_of_weights
