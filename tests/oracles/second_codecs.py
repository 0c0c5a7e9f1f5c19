"""Decoders of all payloads of a `.rbe` file, written from docs/codecs.md alone.

They are slow and easy to check: plain Python and numpy, and nothing from the package. A codec is
a function of the payload and of the shape that it stores, and returns float32.
"""

import math
import struct
from bisect import bisect_right
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Shape = tuple[int, ...]


class BrokenFileError(Exception):
    """A rule of the two pages is broken.

    Attributes:
        kind: the name of the error that the page gives to the rule.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind


def need(holds: object, reason: str, kind: str = "PayloadError") -> None:
    """Raise the error of a rule unless it holds."""
    if not holds:
        raise BrokenFileError(kind, reason)


def power(exponent: int, per_octave: int) -> np.float32:
    """Return 2^(exponent / per_octave), rounded to float32."""
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(np.exp2(np.float64(exponent) / per_octave))


def _finite(values: Any) -> bool:
    return bool(np.isfinite(values).all())


def _int16(value: int) -> int:
    return (value + 2**15) % 2**16 - 2**15


# ---- the entropy model and rANS


@cache
def frequencies(level: int, z: int) -> tuple[int, ...]:
    """Return the 64 frequencies of a level from -24 to 95 and an offset."""
    sigma, shift = 2.0 ** (level / 8), shift_of(level)

    def below(x: float) -> float:
        narrow, wide = math.erf(x / (sigma * 2**0.5)), math.erf(x / (1.8 * sigma * 2**0.5))
        return 0.5 + 0.485 * narrow + 0.015 * wide

    edges = [(i - 32) * 2 ** (shift + 1) + z - 1 for i in range(64)]
    found = [round(4096 * (below(edges[i + 1]) - below(edges[i]))) for i in range(63)] + [1]
    found[found.index(max(found))] += 4096 - sum(found)
    return tuple(found)


@cache
def _starts(level: int, z: int) -> list[int]:
    return [0, *accumulate(frequencies(level, z))][:-1]


def shift_of(level: int) -> int:
    """Return the number of low bits that are coded as they are."""
    return max(0, math.ceil(level / 8 - 3.5))


class Lanes:
    """The lanes of a stream of words."""

    def __init__(self, states: list[int], words: list[int]) -> None:
        self.states, self.words, self.place = states, words, 0

    def _set(self, lane: int, x: int) -> None:
        if x < 2**16:
            need(self.place < len(self.words), "the words end before the integers do")
            x = x * 2**16 + self.words[self.place]
            self.place += 1
        self.states[lane] = x

    def integer(self, lane: int, level: int, z: int) -> int:
        """Decode an integer q in a lane."""
        level = min(max(level, -24), 95)
        x, shift = self.states[lane], shift_of(level)
        slot = x % 4096
        # The last symbol that starts at the slot or before it; those without slots come before.
        symbol = bisect_right(_starts(level, z), slot) - 1
        self._set(
            lane, frequencies(level, z)[symbol] * (x >> 12) + slot - _starts(level, z)[symbol]
        )
        x = self.states[lane]
        if symbol == 63:
            self._set(lane, x >> 16)
            return x % 2**16 - 2**15
        if shift:
            self._set(lane, x >> shift)
            return (symbol - 32) * 2**shift + x % 2**shift
        return symbol - 32

    def run(self, count: int, level: int) -> list[int]:
        """Decode a run of integers under one level."""
        return [self.integer(i % len(self.states), level, 0) for i in range(count)]

    def end(self) -> None:
        """Check that the stream ends here."""
        need(self.place == len(self.words), "words are left")
        need(all(x == 2**16 for x in self.states), "a state does not end where encoders begin")


# ---- ectcq


_PARITY_CHECKS = {8: (11, 4), 16: (19, 4), 32: (37, 8), 64: (67, 20)}


def _parity(bits: int) -> int:
    return bits.bit_count() % 2


def _ectcq_block(
    lanes: Lanes, models: list[int], rows: int, columns: int, states: int, is_sorted: int
) -> tuple[NDArray[np.int64], list[int]]:
    """Return a block's integers `[K, B]` and the levels of its columns' steps, in their places."""
    h0, h1 = _PARITY_CHECKS[states]
    row_levels, column_levels, step_levels = (
        [_int16(models[2 * kind] + q) for q in lanes.run(count, models[2 * kind + 1])]
        for kind, count in enumerate((rows, columns, columns))
    )
    order = sorted_order(column_levels) if is_sorted else strided_order(columns)
    if not is_sorted:
        column_levels, step_levels = (
            [levels[order.index(n)] for n in range(columns)]
            for levels in (column_levels, step_levels)
        )
    integers = np.zeros((rows, columns), np.int64)
    trellis = [0] * rows
    for first in range(0, rows, 32):
        for column in order:
            for k in range(first, min(first + 32, rows)):
                register = 2 * trellis[k]
                z = _parity(register & h1)
                q = lanes.integer(k - first, row_levels[k] + column_levels[column], z)
                integers[k, column] = _int16(2 * q + z)
                trellis[k] = (register + ((q & 1) ^ _parity(register & h0))) % states
    lanes.end()
    return integers, step_levels


def strided_order(columns: int) -> list[int]:
    """Return the columns of a block along a strided trellis."""
    stride = math.ceil(columns / 32)
    return [j for start in range(stride) for j in range(start, columns, stride)]


def sorted_order(levels: list[int]) -> list[int]:
    """Return the columns of a block along a sorted trellis."""
    ranked = sorted(range(len(levels)), key=lambda n: (levels[n], n))
    return [n for first in range(0, len(levels), 32) for n in sorted(ranked[first : first + 32])]


def ectcq(data: bytes, shape: Shape) -> Float32:
    """Decode a matrix of the codec `ectcq`."""
    rows, columns = shape
    blocks = math.ceil(columns / 1024)
    place = 8 + 4 * blocks
    need(len(data) >= place, "too few bytes")
    step, states, is_sorted, resolution = struct.unpack_from("<fBBH", data)
    counts = struct.unpack_from(f"<{blocks}I", data, 8)
    need(_finite(step) and step > 0, "the step")
    need(states in _PARITY_CHECKS, "the states of the trellis")
    need(is_sorted in (0, 1), "the order of the columns")
    need(resolution in (0, 32), "the resolution")
    need(len(data) == place + 140 * blocks + 2 * sum(counts), "the words do not fill the bytes")
    out = np.zeros((rows, columns), np.float32)
    for b, count in enumerate(counts):
        first, stop = b * columns // blocks, (b + 1) * columns // blocks
        models = list(struct.unpack_from("<6h", data, place))
        lanes = list(struct.unpack_from("<32I", data, place + 12))
        words = list(struct.unpack_from(f"<{count}H", data, place + 140))
        place += 140 + 2 * count
        integers, levels = _ectcq_block(
            Lanes(lanes, words), models, rows, stop - first, states, is_sorted
        )
        with np.errstate(over="ignore", under="ignore"):
            factors = np.array([power(level, resolution or 8) for level in levels])
            steps = np.float32(step) * factors
            need(_finite(steps * np.float32(32768)), "a step is too large")
            out[:, first:stop] = integers.astype(np.float32) * steps
    return out


# ---- fixed


def fixed(data: bytes, shape: Shape) -> Float32:
    """Decode a matrix of the codec `fixed`."""
    rows, columns = shape
    panels, tiles = math.ceil(columns / 16), math.ceil(rows / 32)
    sizes = {64 * panels * tiles * b + rows + columns + 4: b for b in (2, 4, 8)}
    need(len(data) in sizes, "the number of bytes")
    bits = sizes[len(data)]
    end = 64 * panels * tiles * bits
    vectors = np.frombuffer(data, np.uint8, end).reshape(panels, tiles, bits, 64)
    row_exponents = np.frombuffer(data, np.int8, rows, end).tolist()
    column_exponents = np.frombuffer(data, np.int8, columns, end + rows).tolist()
    unit = np.frombuffer(data, "<f4", 1, end + rows + columns)[0]
    need(_finite(unit) and unit > 0, "the unit")
    with np.errstate(over="ignore", under="ignore"):
        row_steps = np.array([power(e, 8) for e in row_exponents])
        column_steps = unit * np.array([power(e, 8) for e in column_exponents])
        largest = np.float32({2: 1.5, 4: 9.375, 8: 128.0}[bits])
        need(_finite(largest * row_steps.max() * column_steps.max()), "the steps are too large")
    k, n = np.arange(rows)[:, None], np.arange(columns)
    group = k % 32 // 4
    found = vectors[n // 16, k // 32, group * bits // 8, 4 * (n % 16) + k % 4]
    codes = (found >> (group * bits % 8)) % 2**bits
    return np.asarray(_fixed_levels(bits)[codes] * row_steps[:, None] * column_steps, np.float32)


def _fixed_levels(bits: int) -> Float32:
    if bits == 4:
        upper = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 7.125, 9.375]
        return np.array([-level for level in upper[::-1]] + upper, np.float32)
    middle = {2: 1.5, 8: 128.0}[bits]
    return np.array([c - middle for c in range(2**bits)], np.float32)


# ---- classic


def classic(data: bytes, shape: Shape) -> Float32:
    """Decode a matrix of the codec `classic`."""
    need(len(data) >= 2, "too few bytes")
    (block,) = struct.unpack_from("<H", data)
    need(16 <= block <= 256, "the size of blocks")
    corners = [(i, j) for i in range(0, shape[0], block) for j in range(0, shape[1], block)]
    blocks = len(corners)
    place = 2 + 35 * blocks
    need(len(data) >= place, "too few bytes")
    counts = struct.unpack_from(f"<{blocks}H", data, 2 + blocks)
    need(len(data) == place + 6 * sum(counts), "the coefficients do not fill the bytes")
    out = np.zeros(shape, np.float32)
    for b, (top, left) in enumerate(corners):
        part = out[top : top + block, left : left + block]
        need(data[2 + b] <= 2, "the transform")
        factors = np.frombuffer(data, "<f4", 8, 2 + 3 * blocks + 32 * b)
        places = np.frombuffer(data, "<u2", counts[b], place).astype(np.int64)
        values = np.frombuffer(data, "<f4", counts[b], place + 2 * counts[b])
        place += 6 * counts[b]
        need((np.diff(places) > 0).all() and (places < part.size).all(), "the places")
        need(_finite(values) and _finite(factors), "a number that is not finite")
        coefficients = np.zeros(part.size)
        coefficients[places] = values
        inverse = (_inverse_dct, _inverse_haar, _inverse_cdf97)[data[2 + b]]
        down = inverse(coefficients.reshape(part.shape))
        whole = _surface(factors.astype(np.float64), part.shape) + inverse(down.T).T
        largest = float(np.finfo(np.float32).max)
        part[:] = np.clip(whole, -largest, largest)
    return out


def _coordinates(count: int) -> Float64:
    return 2 * np.arange(count) / (count - 1) - 1 if count > 1 else np.zeros(1)


def _surface(a: Float64, shape: Shape) -> Float64:
    y, x = (2 * np.arange(count) / (count - 1) - 1 if count > 1 else np.zeros(1) for count in shape)
    y = np.reshape(y, (-1, 1))
    square = x**2 + y**2
    total = a[0] + a[1] * np.sqrt(square) + a[2] * square
    total = total + a[3] * np.cos(np.pi * x) + a[4] * np.cos(np.pi * y)
    total = total + a[5] * np.cos(2 * np.pi * x) + a[6] * np.cos(2 * np.pi * y)
    return np.asarray(total + a[7] * np.cos(np.pi * x) * np.cos(np.pi * y))


def _inverse_dct(c: Float64) -> Float64:
    """Invert the transform of the columns of `[m, ...]`."""
    m = len(c)
    f = np.arange(m)
    scaled = np.sqrt(2 / m) * c
    scaled[0] /= np.sqrt(2)
    return np.asarray(np.cos(np.pi * f * (f[:, None] + 0.5) / m) @ scaled)


def _joined(c: Float64, shortest: int, join: Callable[[Float64, Float64], Float64]) -> Float64:
    """Join the halves of a wavelet from the coarsest to the finest."""
    lengths, low = [], len(c)
    while low >= shortest:
        lengths.append((low - low // 2, low // 2))
        low -= low // 2
    signal = c[:low]
    for low, high in reversed(lengths):
        signal = join(signal, c[low : low + high])
    return signal


def _inverse_haar(c: Float64) -> Float64:
    def join(low: Float64, high: Float64) -> Float64:
        signal = np.zeros((len(low) + len(high), *low.shape[1:]))
        signal[0 : 2 * len(high) : 2] = (low[: len(high)] + high) / np.sqrt(2)
        signal[1::2] = (low[: len(high)] - high) / np.sqrt(2)
        if len(low) > len(high):
            signal[-1] = low[-1]
        return signal

    return _joined(c, 2, join)


def _inverse_cdf97(c: Float64) -> Float64:
    def join(low: Float64, high: Float64) -> Float64:
        low, high = low / 1.149604398860241, high * 1.149604398860241
        last_low, last_high = len(low) - 1, len(high) - 1
        for p, u in (
            (0.882911075530934, 0.443506852043971),
            (-1.586134342059924, -0.052980118572961),
        ):
            for i in range(len(low)):
                low[i] -= u * (high[max(i - 1, 0)] + high[min(i, last_high)])
            for i in range(len(high)):
                high[i] -= p * (low[i] + low[min(i + 1, last_low)])
        signal = np.zeros((len(low) + len(high), *low.shape[1:]))
        signal[::2], signal[1::2] = low, high
        return signal

    return _joined(c, 8, join)


# ---- vectors, and numbers as they are


def coded(data: bytes, shape: Shape) -> Float32:
    """Decode a vector of the codec `coded`."""
    need(len(data) >= 14 and len(data) % 2 == 0, "the number of bytes")
    offset, step, level, state = struct.unpack_from("<ffhI", data)
    need(_finite(offset), "the offset")
    need(_finite(step) and step > 0, "the step")
    lanes = Lanes([state], list(struct.unpack_from(f"<{(len(data) - 14) // 2}H", data, 14)))
    integers = lanes.run(math.prod(shape), level)
    lanes.end()
    with np.errstate(over="ignore"):
        values = np.array([offset + step * q for q in integers]).astype(np.float32)
    need(_finite(values), "a value is not finite")
    return values.reshape(shape)


def scalar(data: bytes, shape: Shape) -> Float32:
    """Decode a vector of the codec `scalar`."""
    return np.full(shape, _numbers(data, "<f4", (1,))[0], np.float32)


def float16(data: bytes, shape: Shape) -> Float32:
    """Decode a tensor of the codec `float16`."""
    return _numbers(data, "<f2", shape)


def float32(data: bytes, shape: Shape) -> Float32:
    """Decode a tensor of the codec `float32`."""
    return _numbers(data, "<f4", shape)


def _numbers(data: bytes, dtype: str, shape: Shape) -> Float32:
    values = np.frombuffer(data, dtype).reshape(shape).astype(np.float32)
    need(_finite(values), "a value is not finite")
    return values


CODECS: dict[str, tuple[set[int], Callable[[bytes, Shape], Float32]]] = {
    "classic": ({1}, classic),
    "coded": ({1}, coded),
    "ectcq": ({1, 2}, ectcq),
    "fixed": ({2}, fixed),
    "float16": ({1}, float16),
    "float32": ({1}, float32),
    "scalar": ({1}, scalar),
}
"""Name -> versions and decoder."""
