"""Encode one-dimensional tensors (LayerNorm parameters and biases) in the fewest bytes.

There are two codecs beside `float16` and `float32` (dense_tensor.py), version 1, little-endian:

    scalar   value   float32              the value of all elements
    coded    offset  float32              value i is offset + step * n[i], rounded to float32
             step    float32
             level   int16                of the entropy model of 2 n (entropy/entropy_model.py)
             state   uint32               of a single rANS lane (codec/entropy/rans.py)
             words   uint16 [...]         n, coded as q of z = 0

An n far from the others is coded by an escape, so that outliers cost little. The entropy coder is
imported only when it is called, so that files without coded vectors load faster.
"""

import math
import struct

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.errors import PayloadError

Float32 = NDArray[np.float32]
_CODED = struct.Struct("<ffhI")  # offset, step, level, state
_SCALAR = struct.Struct("<f")
_INTEGERS = np.iinfo(np.int16)  # the range of n, which an escape can hold


def choose(values: Float32, step: float) -> tuple[str, bytes]:
    """Return the name of the codec that takes the fewest bytes, and the bytes.

    `float32` holds any values. The other codecs are considered if no error is larger than half a
    step plus the rounding of float32.

    Args:
        values: finite, float32 `[n]`, not empty.
        step: twice the largest error that is allowed; positive and within float32.
    """
    best: tuple[str, bytes] = "float32", dense_tensor.encode(values, "float32")
    with np.errstate(over="ignore"):  # infinite values fail the check below
        half = values.astype(np.float16)
    coded, scalar = encode_vector(values, step), encode_scalar(values)
    smaller = [
        ("float16", half.astype("<f2").tobytes(), half.astype(np.float32)),
        ("coded", coded, _integers_of(coded, values.shape)),
        ("scalar", scalar, np.full(values.shape, _SCALAR.unpack(scalar)[0], np.float32)),
    ]
    exact = values.astype(np.float64)
    allowed = 0.5 * np.float32(step) + np.abs(exact) * np.finfo(np.float32).eps
    for name, data, found in smaller:
        if (np.abs(found - exact) <= allowed).all() and len(data) < len(best[1]):
            best = name, data
    return best


def encode_vector(values: Float32, step: float) -> bytes:
    """Encode with the codec `coded`. Values more than 32767 steps from the median are clipped.

    Args:
        values, step: as in `choose`.
    """
    from rbe_cli.codec.entropy import rans

    exact = values.astype(np.float64)
    offset, step = float(np.float32(np.median(exact))), float(np.float32(step))
    n = np.rint((exact - offset) / step).clip(_INTEGERS.min, _INTEGERS.max).astype(np.int16)
    level = _cheapest_level(n)
    state, words = rans.encode_run(n, level)
    return _CODED.pack(offset, step, level, state) + words.astype("<u2").tobytes()


def encode_scalar(values: Float32) -> bytes:
    """Encode with the codec `scalar`: the mean of the smallest and the largest value."""
    return _SCALAR.pack((float(values.min()) + float(values.max())) / 2)


def decode_coded(data: bytes | memoryview, shape: tuple[int, ...]) -> Float32:
    """Decode the codec `coded` to float32 values.

    Raises:
        PayloadError: the bytes are not a vector of this shape, or a value is not finite.
    """
    return _finite(_integers_of(data, shape))


def decode_scalar(data: bytes | memoryview, shape: tuple[int, ...]) -> Float32:
    """Decode the codec `scalar` to float32 values. It raises as `decode_coded`."""
    if len(data) != _SCALAR.size:
        raise PayloadError(f"{len(data)} bytes are not one scalar")
    return _finite(np.full(shape, _SCALAR.unpack(data)[0], np.float32))


def _finite(values: Float32) -> Float32:
    if not np.isfinite(values).all():
        raise PayloadError("a vector holds NaN or infinite values")
    return values


def _cheapest_level(n: NDArray[np.int16]) -> int:
    """Return the level of the entropy model that takes the fewest bits for integers `[n]`."""
    from rbe_cli.codec.entropy.entropy_model import ESCAPE, MIN_LEVEL, SYMBOL_OFFSET, entropy_tables

    tables = entropy_tables()
    symbols = (n >> tables.shift[:, None]) + SYMBOL_OFFSET  # [levels, n]
    symbols = np.where((symbols >= 0) & (symbols < ESCAPE), symbols, ESCAPE)
    bits = np.take_along_axis(tables.bits[:, 0], symbols, axis=1).sum(axis=1, dtype=np.float64)
    return int(np.argmin(bits)) + MIN_LEVEL


def _integers_of(data: bytes | memoryview, shape: tuple[int, ...]) -> Float32:
    """Return the values of the codec `coded`, which may be infinite."""
    word_bytes = len(data) - _CODED.size
    if word_bytes < 0 or word_bytes % 2:
        raise PayloadError(f"{len(data)} bytes are not a coded vector")
    offset, step, level, state = _CODED.unpack_from(data)
    if not (math.isfinite(offset) and math.isfinite(step) and step > 0.0):
        raise PayloadError(f"a coded vector has offset {offset} and step {step}")
    from rbe_cli.codec.entropy import rans

    words = np.frombuffer(data, "<u2", word_bytes // 2, _CODED.size)
    n = rans.decode_run(state, words, level, math.prod(shape)).reshape(shape)
    with np.errstate(over="ignore"):
        return (offset + step * n.astype(np.float64)).astype(np.float32)
