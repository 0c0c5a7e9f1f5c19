"""A tensor as a weight file declares it: known by shape and type, read when asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.checkpoint import Float32

# Type as weights are stored -> the numpy type of its raw little-endian bits. numpy has no
# bfloat16; its bits are the upper half of a float32's.
RAW_TYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a weight file.

    Attributes:
        shape: its sizes, already checked against the bytes the file holds for it.
        dtype: `float32`, `float16`, `bfloat16`, or the file's own word for another type.
        read: reads it as float32 `[*shape]`; to be called only if `dtype` is in `RAW_TYPES`.
            Raises `CheckpointError` if the file has changed since it was opened.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], Float32]


def to_float32(raw: NDArray[Any], dtype: str) -> Float32:
    """Values of an array of `RAW_TYPES[dtype]`, each of which float32 holds exactly."""
    if dtype == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32, copy=False)
