"""Compute causal attention over a cache of whole rows, in float32 (Vaswani et al. 2017, 3.2).

Each part takes some heads of some sequences. Sums have one written order, so that a query's
result depends neither on the parts nor on the queries beside it.
"""

from typing import Any

import numpy as np

from rbe_cli.algebra.exponential_program import exp
from rbe_cli.kernels.kernel_records import ATTENTION
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    fused,
    lane_max,
    lane_sum,
    larger,
    load_float,
    load_floats,
    load_int,
    record,
    splat_float,
    store_float,
    store_floats,
)
from rbe_cli.runtime.team_programs import share

_ZERO, _LEAST = np.float32(0), np.float32(-np.inf)


@program_code
def attention_program(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Run a part's share of all heads of all sequences."""
    job = record(ATTENTION, job_address)
    pairs = job.batch * job.heads
    scores = job.scratch + part * job.scratch_bytes
    for pair in range(share(pairs, part, parts), share(pairs, part + 1, parts)):
        item, head = pair // job.heads, pair % job.heads
        place = load_int(job.rows + 8 * item) * job.row_bytes + head * job.head_bytes
        start = load_int(job.starts + 8 * item)
        _append(job, item, head, place, start)
        query = job.qkv + item * job.seq * job.qkv_stride + 4 * head * job.head_dim
        out = job.out + item * job.seq * job.out_stride + 4 * head * job.head_dim
        for t in range(job.seq):
            length = start + t + 1
            _attend(job, query, job.keys + place, job.values + place, length, scores, out)
            query += job.qkv_stride
            out += job.out_stride


@program_code
def _append(job: Any, item: int, head: int, place: int, start: int) -> None:
    """Copy a sequence's new keys and values of one head to the cache."""
    width = 4 * job.head_dim
    source = job.qkv + item * job.seq * job.qkv_stride + (job.heads + head) * width
    for position in range(start, start + job.seq):
        target = place + position * width
        for i in range(0, width, 4):
            store_float(job.keys + target + i, load_float(source + i))
            store_float(job.values + target + i, load_float(source + job.heads * width + i))
        source += job.qkv_stride


@program_code
def _attend(
    job: Any, query: int, keys: int, values: int, length: int, scores: int, out: int
) -> None:
    """Compute the output of one query over the first `length` positions."""
    width = 4 * job.head_dim
    padded = (length + 15) // 16 * 16
    for j in range(length):
        store_float(scores + 4 * j, _dot(query, keys + j * width, job.head_dim) * job.scale)
    for j in range(length, padded):
        store_float(scores + 4 * j, _LEAST)
    largest = splat_float(_LEAST)
    for j in range(0, 4 * padded, 64):
        largest = larger(load_floats(scores + j), largest)
    shift, total = splat_float(lane_max(largest)), splat_float(_ZERO)
    for j in range(0, 4 * padded, 64):
        power = exp(load_floats(scores + j) - shift)
        store_floats(scores + j, power)
        total = total + power
    _mix(scores, values, length, job.head_dim, np.float32(1) / lane_sum(total), out)


@program_code
def _dot(a: int, b: int, length: int) -> Any:
    whole = length // 16 * 16
    total = splat_float(_ZERO)
    for i in range(0, 4 * whole, 64):
        total = fused(load_floats(a + i), load_floats(b + i), total)
    found = lane_sum(total)
    for i in range(4 * whole, 4 * length, 4):
        found += load_float(a + i) * load_float(b + i)
    return found


@program_code
def _mix(scores: int, values: int, length: int, head_dim: int, scale: Any, out: int) -> None:
    """Set out to scale times the sum of values `[length, head_dim]`, each times its score."""
    width = 4 * head_dim
    whole = head_dim // 16 * 16
    fours = length // 4 * 4
    zero = splat_float(_ZERO)
    for i in range(0, 4 * whole, 64):
        a, b, c, d = zero, zero, zero, zero
        place = values + i
        for j in range(0, 4 * fours, 16):
            a = fused(splat_float(load_float(scores + j)), load_floats(place), a)
            b = fused(splat_float(load_float(scores + j + 4)), load_floats(place + width), b)
            c = fused(splat_float(load_float(scores + j + 8)), load_floats(place + 2 * width), c)
            d = fused(splat_float(load_float(scores + j + 12)), load_floats(place + 3 * width), d)
            place += 4 * width
        for j in range(4 * fours, 4 * length, 4):
            a = fused(splat_float(load_float(scores + j)), load_floats(place), a)
            place += width
        store_floats(out + i, ((a + b) + (c + d)) * splat_float(scale))
    for i in range(4 * whole, width, 4):
        found = _ZERO
        for j in range(length):
            found += load_float(scores + 4 * j) * load_float(values + j * width + i)
        store_float(out + i, found * scale)
