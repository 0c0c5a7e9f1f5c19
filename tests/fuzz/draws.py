"""Choices that a seed makes: the same seed gives the same case, on every machine."""

import struct
from collections.abc import Sequence
from typing import Any, TypeVar

import xxhash

T = TypeVar("T")

_MASK = (1 << 64) - 1
# Where readers may err: around the limits of types, and of the formats.
EDGES = (
    *(0, 1, -1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, -128, 255, 256, 1023, 1024, 1025),
    *((1 << bits) + more for bits in (12, 15, 16, 18, 20, 24, 31, 32, 53) for more in (-1, 0, 1)),
    *(-(1 << 15), -(1 << 31), -(1 << 63), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 100_000_000),
)
HUGE = (1 << 64, -(1 << 63) - 1, 10**20, 1 << 200, -(1 << 200))  # beyond 64 bits
FLOAT_EDGES = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), float("-inf"), 1e308, 1e39),
    *(1e-45, 1.17549435e-38, 1e-37, 1e-30, 1e-5, 1e30, 1e33, 1.0384e34, 1.0385e34, 1.04e34),
    *(3.4028235e38, -3.4028235e38, 65504.0, 65520.0, 6e-8, 5e-324, 2.2250738585072014e-308),
)


class Draws:
    """A stream of choices, from a linear congruential generator modulo 2^64 (Knuth's numbers)."""

    def __init__(self, seed: int) -> None:
        """Begin the stream of a seed, 0 to 2^64 - 1."""
        self._state = xxhash.xxh3_64_intdigest(struct.pack("<Q", seed & _MASK))

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1; `limit` is at most 2^32."""
        self._state = state = (self._state * 6364136223846793005 + 1442695040888963407) & _MASK
        return (state >> 32) % limit

    def one_of(self, values: Sequence[T]) -> T:
        """Return one of some values."""
        return values[self.below(len(values))]

    def some_bytes(self, count: int) -> bytes:
        """Return random bytes."""
        return bytes(self.below(256) for _ in range(count))

    def integer(self) -> int:
        """Return an integer at an edge, or a small one, or any."""
        kind = self.below(8)
        if kind < 5:
            return self.one_of(EDGES)
        return self.below(300) if kind < 7 else self.below(1 << 32)

    def floating(self) -> float:
        """Return a floating-point number at an edge, or any of float32."""
        if self.below(4):
            return self.one_of(FLOAT_EDGES)
        (value,) = struct.unpack("<f", struct.pack("<I", self.below(1 << 32)))
        return float(value)


def wrapped(value: int, size: int) -> bytes:
    """Return the lowest `size` bytes of an integer, little-endian, in two's complement."""
    return (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


def joined(*parts: Any) -> bytes:
    """Return parts that are bytes, or lists of bytes, as one."""
    return b"".join(part if isinstance(part, bytes) else b"".join(part) for part in parts)
