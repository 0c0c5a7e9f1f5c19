"""Attend to a paged cache: one block for each token and head, one page after the other.

The softmax is computed as the pages come (Milakov & Gimelshein 2018, algorithm 3): scores are taken
relative to the largest so far, and what was summed before is scaled when a larger one comes.
A page holds keys with positions side by side, so that neighbouring threads read neighbouring
numbers of them; and values with elements side by side.
"""

import math
from typing import Any

import numpy as np
from numba import cuda, float32

from rbe_cli.cuda.kernel import kernel

PAGE = 64
"""Positions of a page, and threads of a block that attends."""

_LOWEST = np.float32(-np.inf)
_POOLS = (
    "float32[:, :, :, ::1], float32[:, :, :, ::1]",
    "float16[:, :, :, ::1], float16[:, :, :, ::1]",
)
_TABLE = "int32[:, ::1], int32[::1], int32[::1]"


@kernel(*(f"void(float32[:, ::1], {own}, {_TABLE})" for own in _POOLS))
def store_keys_values(
    qkv: Any, keys: Any, values: Any, table: Any, rows: Any, positions: Any
) -> None:
    """Put each token's keys and values into its page; a block takes a token.

    Args:
        qkv: `[tokens, 3 * heads * head_dim]`, queries, keys, values.
        keys: `[pages, heads, head_dim, PAGE]`, float32 or float16.
        values: `[pages, heads, PAGE, head_dim]`, of the same type.
        table: `[rows, most pages]`, the pages of each row.
        rows, positions: `[tokens]`, where a token belongs.
    """
    token = cuda.blockIdx.x
    position = positions[token]
    page, place = table[rows[token], position // PAGE], position % PAGE
    head_dim = keys.shape[2]
    width = keys.shape[1] * head_dim
    for element in range(cuda.threadIdx.x, width, cuda.blockDim.x):
        head, part = element // head_dim, element % head_dim
        keys[page, head, part, place] = qkv[token, width + element]
        values[page, head, place, part] = qkv[token, 2 * width + element]


@kernel(*(f"void(float32[:, ::1], {own}, {_TABLE}, float32, float32[:, ::1])" for own in _POOLS))
def attend_pages(
    qkv: Any, keys: Any, values: Any, table: Any, rows: Any, positions: Any, scale: Any, out: Any
) -> None:
    """Set out to the values weighted by softmax(scale q k), of positions up to the token's own.

    A block of `PAGE` threads takes head `blockIdx % heads` of token `blockIdx // heads`, with
    shared memory for two float32 an element of a head.

    Args:
        qkv, keys, values, table, rows, positions: as of `store_keys_values`.
        scale: factor of the scores.
        out: `[tokens, heads * head_dim]`.
    """
    shared = cuda.shared.array(0, float32)  # the query, then the sums of values
    # Each on a line of its own: the simulator tells shared arrays apart by their lines.
    scores = cuda.shared.array(PAGE, float32)
    powers = cuda.shared.array(PAGE, float32)
    heads, head_dim = keys.shape[1], keys.shape[2]
    token, head = cuda.blockIdx.x // heads, cuda.blockIdx.x % heads
    thread = cuda.threadIdx.x
    row, last = rows[token], positions[token]
    for part in range(thread, head_dim, PAGE):
        shared[part] = qkv[token, head * head_dim + part] * scale
        shared[head_dim + part] = np.float32(0)
    cuda.syncthreads()
    largest, total = _LOWEST, np.float32(0)
    for number in range(last // PAGE + 1):
        page = table[row, number]
        score = _LOWEST
        if number * PAGE + thread <= last:
            score = np.float32(0)
            for part in range(head_dim):
                score += shared[part] * np.float32(keys[page, head, part, thread])
        scores[thread] = score
        cuda.syncthreads()
        before = largest
        for other in range(PAGE):
            largest = max(largest, scores[other])
        powers[thread] = np.float32(math.exp(score - largest))
        cuda.syncthreads()
        shrink = np.float32(math.exp(before - largest))
        total *= shrink
        count = min(last - number * PAGE + 1, PAGE)
        for other in range(count):
            total += powers[other]
        for part in range(thread, head_dim, PAGE):
            own = shared[head_dim + part] * shrink
            for other in range(count):
                own += powers[other] * np.float32(values[page, head, other, part])
            shared[head_dim + part] = own
    for part in range(thread, head_dim, PAGE):
        out[token, head * head_dim + part] = shared[head_dim + part] / total


@kernel("void(float32[:, ::1], float32[:, ::1])")
def add_rows(x: Any, other: Any) -> None:
    """Add `other` to x, both `[rows, d]`; a block takes a row."""
    row = cuda.blockIdx.x
    for column in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
        x[row, column] += other[row, column]
