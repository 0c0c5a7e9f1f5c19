"""Encode and decode tensors as floating-point numbers, little-endian in C order."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rbe_cli.errors import PayloadError
from rbe_cli.runtime.arrays import sum_of_squares

DenseType = Literal["float16", "float32"]
_DTYPES: dict[str, np.dtype] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
_TOLERANCE = 5e-4  # relative: half a unit in the last place of float16


def choose(tensor: NDArray[np.float32]) -> DenseType:
    """Return `float16`, or `float32` if float16 overflows or its rounding error is too large."""
    if not fits_float16(tensor):
        return "float32"
    error = sum_of_squares(tensor - tensor.astype(np.float16).astype(np.float32))
    return "float16" if error <= _TOLERANCE**2 * sum_of_squares(tensor) else "float32"


def fits_float16(tensor: NDArray[np.float32]) -> bool:
    """Return whether no value is beyond the range of float16."""
    return float(np.abs(tensor).max(initial=0.0)) <= float(np.finfo(np.float16).max)


def exact(tensor: NDArray[np.float32]) -> DenseType:
    """Return the smaller of the two types that holds every value of a tensor exactly."""
    with np.errstate(over="ignore"):
        rounded = tensor.astype(np.float16).astype(np.float32)
    return "float16" if np.array_equal(rounded, tensor) else "float32"


def encode(tensor: NDArray[np.float32], codec: DenseType) -> bytes:
    """Return the tensor's bytes, little-endian in C order."""
    return np.ascontiguousarray(tensor, dtype=_DTYPES[codec]).tobytes()


def decode(data: bytes | memoryview, shape: tuple[int, ...], codec: str) -> NDArray[np.float32]:
    """Return the tensor as float32.

    Raises:
        PayloadError: the number of bytes is wrong, or a value is NaN or infinite.
    """
    dtype = _DTYPES[codec]
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise PayloadError(f"{len(data)} bytes do not hold a {codec} tensor of shape {shape}")
    tensor = np.frombuffer(data, dtype).reshape(shape).astype(np.float32)
    if not np.isfinite(tensor).all():
        raise PayloadError("a dense tensor holds NaN or infinite values")
    return tensor
