"""Compute LayerNorm of rows of 16 lanes, and its gradient (Ba et al. 2016).

A row's mean is first taken of the differences from its first element, then corrected by the
mean of what it leaves, as is the variance (the corrected two-pass algorithm: Chan, Golub &
LeVeque 1983, equation 1.7). Four vectors are summed in float32, all else in float64. The mean is
kept in two floats, so that a small spread about a large mean survives: 1e6 beside 1e-6.
"""

from typing import Any

import numpy as np

from rbe_cli.kernels.kernel_records import LAYER_NORM, LAYER_NORM_BACKWARD, STATISTICS_BYTES
from rbe_cli.runtime.jit import program_code
from rbe_cli.runtime.simd import (
    fence,
    fused,
    lane_sum,
    lane_sum_doubles,
    load_double,
    load_float,
    load_floats,
    load_half,
    load_halfs,
    record,
    splat_double,
    splat_float,
    store_double,
    store_float,
    store_floats,
    store_half,
    store_halfs,
    stream_floats,
    widen,
)
from rbe_cli.runtime.team_programs import barrier, share

_ZERO, _ZERO_DOUBLE, _ONE = np.float32(0), np.float64(0), np.float64(1)


@program_code
def _load_vector(is_half: bool, x: int, i: int) -> Any:
    """Load elements i to i + 15 of a row of float16 or float32."""
    return load_halfs(x + 2 * i) if is_half else load_floats(x + 4 * i)


@program_code
def _load(is_half: bool, x: int, i: int) -> Any:
    return load_half(x + 2 * i) if is_half else load_float(x + 4 * i)


@program_code
def _four(is_half: bool, x: int, i: int, shift: Any) -> Any:
    """Return elements i to i + 63 less a shift, in four vectors."""
    return (
        _load_vector(is_half, x, i) - shift, _load_vector(is_half, x, i + 16) - shift,
        _load_vector(is_half, x, i + 32) - shift, _load_vector(is_half, x, i + 48) - shift,
    )  # fmt: skip


@program_code
def row_mean(is_half: bool, x: int, length: int) -> Any:
    """Return a float32 near the mean of a row `[length]` at an address."""
    first = _load(is_half, x, 0)
    shift = splat_float(first)
    whole = length // 64 * 64
    total = splat_double(_ZERO_DOUBLE)
    for i in range(0, whole, 64):
        a, b, c, d = _four(is_half, x, i, shift)
        total = total + widen((a + b) + (c + d))
    rest = lane_sum_doubles(total)
    for i in range(whole, length):
        rest += np.float64(_load(is_half, x, i) - first)
    return np.float32(np.float64(first) + rest / length)


@program_code
def row_statistics(is_half: bool, x: int, length: int, near: Any, eps: float) -> Any:
    """Return (mean, 1 / sqrt(variance + eps)) in float64, from a float32 near the mean."""
    shift = splat_float(near)
    whole = length // 64 * 64
    total, squares = splat_double(_ZERO_DOUBLE), splat_double(_ZERO_DOUBLE)
    for i in range(0, whole, 64):
        a, b, c, d = _four(is_half, x, i, shift)
        total = total + widen((a + b) + (c + d))
        squares = squares + widen(fused(a, a, b * b) + fused(c, c, d * d))
    rest, power = lane_sum_doubles(total), lane_sum_doubles(squares)
    for i in range(whole, length):
        centred = np.float64(_load(is_half, x, i) - near)
        rest += centred
        power += centred * centred
    rest /= length
    variance = max(power / length - rest * rest, _ZERO_DOUBLE)
    return np.float64(near) + rest, _ONE / np.sqrt(variance + eps)


@program_code
def normalise_row(
    is_half: bool,
    x: int,
    length: int,
    mean: float,
    rstd: float,
    gamma: int,
    beta: int,
    out: int,
    streams: bool,
) -> None:
    """Set out = (x - mean) rstd gamma + beta, in x's type; stores may pass by the cache."""
    high, scale = np.float32(mean), np.float32(rstd)
    low = np.float32(-(mean - high) * rstd)
    whole = length // 16 * 16
    for i in range(0, whole, 16):
        centred = _load_vector(is_half, x, i) - splat_float(high)
        weight, shift = load_floats(gamma + 4 * i), load_floats(beta + 4 * i)
        value = fused(fused(centred, splat_float(scale), splat_float(low)), weight, shift)
        if is_half:
            store_halfs(out + 2 * i, value)
        elif streams:
            stream_floats(out + 4 * i, value)
        else:
            store_floats(out + 4 * i, value)
    for i in range(whole, length):
        centred = (_load(is_half, x, i) - high) * scale + low
        value = centred * load_float(gamma + 4 * i) + load_float(beta + 4 * i)
        if is_half:
            store_half(out + 2 * i, value)
        else:
            store_float(out + 4 * i, value)


@program_code
def layer_norm_row(x: int, length: int, gamma: int, beta: int, eps: float, out: int) -> None:
    """Normalise one row of float32, statistics included."""
    mean, rstd = row_statistics(False, x, length, row_mean(False, x, length), eps)
    normalise_row(False, x, length, mean, rstd, gamma, beta, out, False)


@program_code
def layer_norm_program(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Run a part's share of the rows: `fused`, row by row, or in three passes over all."""
    job = record(LAYER_NORM, job_address)
    first, last = share(job.tokens, part, parts), share(job.tokens, part + 1, parts)
    is_half, streams = job.is_half != 0, job.streams != 0
    if job.fused != 0:
        for token in range(first, last):
            x = job.x + token * job.x_stride
            near = row_mean(is_half, x, job.length)
            mean, rstd = row_statistics(is_half, x, job.length, near, job.eps)
            out = job.out + token * job.x_stride
            normalise_row(is_half, x, job.length, mean, rstd, job.gamma, job.beta, out, streams)
            store_double(job.statistics + token * STATISTICS_BYTES, mean)
            store_double(job.statistics + token * STATISTICS_BYTES + 8, rstd)
        fence()
        return
    for token in range(first, last):
        near = row_mean(is_half, job.x + token * job.x_stride, job.length)
        store_double(job.statistics + token * STATISTICS_BYTES, np.float64(near))
    barrier(job.flags, part, parts)
    for token in range(first, last):
        statistics = job.statistics + token * STATISTICS_BYTES
        near, x = np.float32(load_double(statistics)), job.x + token * job.x_stride
        mean, rstd = row_statistics(is_half, x, job.length, near, job.eps)
        store_double(statistics, mean)
        store_double(statistics + 8, rstd)
    barrier(job.flags, part, parts)
    for token in range(first, last):
        statistics = job.statistics + token * STATISTICS_BYTES
        x, out = job.x + token * job.x_stride, job.out + token * job.x_stride
        mean, rstd = load_double(statistics), load_double(statistics + 8)
        normalise_row(is_half, x, job.length, mean, rstd, job.gamma, job.beta, out, streams)
    fence()


@program_code
def layer_norm_backward_program(arithmetic: Any, part: int, parts: int, job_address: int) -> None:
    """Run a part's share of the blocks of rows, each block with its own sums."""
    job = record(LAYER_NORM_BACKWARD, job_address)
    for block in range(share(job.blocks, part, parts), share(job.blocks, part + 1, parts)):
        sums = job.sums + 8 * job.length * block
        for i in range(2 * job.length):
            store_float(sums + 4 * i, _ZERO)
        last = min((block + 1) * job.block_rows, job.tokens)
        for token in range(block * job.block_rows, last, 4):
            _backward_rows(job, token, last, sums)


@program_code
def _backward_rows(job: Any, token: int, end: int, sums: int) -> None:
    """Run rows `token` to `token + 3`, as far as there are any; sums are loaded once for four."""
    a, b, c, d = (
        _open_row(job, token, end), _open_row(job, token + 1, end),
        _open_row(job, token + 2, end), _open_row(job, token + 3, end),
    )  # fmt: skip
    zero = splat_float(_ZERO)
    totals, alongs = (zero, zero, zero, zero), (zero, zero, zero, zero)
    shifts = sums + 4 * job.length
    whole = job.length // 16 * 16
    for i in range(0, 4 * whole, 64):
        gamma = load_floats(job.gamma + i)
        own_a, normal_a = _elements(a, i)
        own_b, normal_b = _elements(b, i)
        own_c, normal_c = _elements(c, i)
        own_d, normal_d = _elements(d, i)
        g_a, g_b, g_c, g_d = own_a * gamma, own_b * gamma, own_c * gamma, own_d * gamma
        totals = totals[0] + g_a, totals[1] + g_b, totals[2] + g_c, totals[3] + g_d
        alongs = (
            fused(g_a, normal_a, alongs[0]), fused(g_b, normal_b, alongs[1]),
            fused(g_c, normal_c, alongs[2]), fused(g_d, normal_d, alongs[3]),
        )  # fmt: skip
        scaled = fused(own_b, normal_b, own_a * normal_a)
        scaled = scaled + fused(own_d, normal_d, own_c * normal_c)
        store_floats(sums + i, load_floats(sums + i) + scaled)
        store_floats(shifts + i, load_floats(shifts + i) + ((own_a + own_b) + (own_c + own_d)))
    _close_row(job, token, end, a, lane_sum(totals[0]), lane_sum(alongs[0]), sums)
    _close_row(job, token + 1, end, b, lane_sum(totals[1]), lane_sum(alongs[1]), sums)
    _close_row(job, token + 2, end, c, lane_sum(totals[2]), lane_sum(alongs[2]), sums)
    _close_row(job, token + 3, end, d, lane_sum(totals[3]), lane_sum(alongs[3]), sums)


@program_code
def _open_row(job: Any, token: int, end: int) -> Any:
    """Return a row's (address of x, of grad, mean in two floats, rstd, 1).

    Past the end, it is the last row, with 0 instead of 1.
    """
    weight = np.float32(1) if token < end else _ZERO
    token = min(token, end - 1)
    statistics = job.statistics + token * STATISTICS_BYTES
    mean, scale = load_double(statistics), np.float32(load_double(statistics + 8))
    high = np.float32(mean)
    place = token * job.x_stride
    return job.x + place, job.grad + place, high, np.float32(mean - high), scale, weight


@program_code
def _elements(row: Any, i: int) -> Any:
    """Return 16 elements of grad and x^, `i` bytes after the row's beginning."""
    x, grad, high, low, scale, weight = row
    centred = load_floats(x + i) - splat_float(high) - splat_float(low)
    return load_floats(grad + i) * splat_float(weight), centred * splat_float(scale)


@program_code
def _close_row(job: Any, token: int, end: int, row: Any, total: Any, along: Any, sums: int) -> None:
    """Run the elements past the last 16, then set out = rstd (g - mean(g) - x^ mean(g x^)).

    g = grad gamma; adds grad x^ and grad to sums.
    """
    if token >= end:
        return
    x, grad, high, low, scale, _ = row
    length = job.length
    whole = length // 16 * 16
    for i in range(4 * whole, 4 * length, 4):
        normal, own = (load_float(x + i) - high - low) * scale, load_float(grad + i)
        g = own * load_float(job.gamma + i)
        total += g
        along += g * normal
        store_float(sums + i, load_float(sums + i) + own * normal)
        place = sums + 4 * length + i
        store_float(place, load_float(place) + own)
    total /= np.float32(length)
    along /= np.float32(length)
    out = job.out + token * job.x_stride
    for i in range(0, 4 * whole, 64):
        own, normal = _elements(row, i)
        g = own * load_floats(job.gamma + i) - splat_float(total)
        store_floats(out + i, fused(normal, splat_float(-along), g) * splat_float(scale))
    for i in range(4 * whole, 4 * length, 4):
        normal = (load_float(x + i) - high - low) * scale
        g = load_float(grad + i) * load_float(job.gamma + i) - total
        store_float(out + i, scale * (g - normal * along))
