"""Define a tensor of a weight file: known by shape and type, read when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.checkpoint import Float32
from rbe_cli.errors import UsageError

# Type as weights are stored -> the numpy type of its raw little-endian bits. numpy has no
# bfloat16; its bits are the upper half of a float32's.
RAW_TYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class CheckpointTensor:
    """Describe one tensor of a weight file.

    Attributes:
        shape: its sizes, already checked against the bytes the file holds for it.
        dtype: `float64`, `float32`, `float16`, `bfloat16`, or the file's own word for another type.
        read: reads it as float32 `[*shape]`; to be called only if `dtype` is in `RAW_TYPES`.
            Raises `CheckpointError` if the file has changed since it was opened.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Float32]


def to_float32(raw: NDArray[Any], dtype: str) -> Float32:
    """Return the values of an array of `RAW_TYPES[dtype]` as float32.

    Those of float64 are rounded, and become infinite if float32 cannot hold them.
    """
    if dtype == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # infinite values are refused when a tensor is read
        return raw.astype(np.float32, copy=False)


def from_float32(tensor: Float32, dtype: str) -> NDArray[Any]:
    """Return the values as an array of `RAW_TYPES[dtype]`, rounded to nearest, ties to even.

    Args:
        tensor: finite values of any shape.
        dtype: `float32`, `float16` or `bfloat16`.

    Raises:
        UsageError: a value is too large for the type.
    """
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(tensor).view(np.uint32)
        raw = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    else:
        with np.errstate(over="ignore"):
            raw = tensor.astype(RAW_TYPES[dtype])
    if not np.isfinite(to_float32(raw, dtype)).all():
        largest = float(np.abs(tensor).max())
        raise UsageError(f"{dtype} cannot hold its largest value, {largest:g}")
    return raw
