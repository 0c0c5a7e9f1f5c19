"""Write a `.safetensors` file one tensor at a time.

The library's writer takes all tensors at once, so a model that is decompressed would have to fit
into memory as a whole; its numpy side has no bfloat16 either. The tests read these files with the
library.
"""

import json
from collections.abc import Iterable, Mapping
from math import prod
from typing import BinaryIO

from rbe_cli.checkpoint.checkpoint import Float32
from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES, from_float32
from rbe_cli.errors import UsageError

_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_ALIGNMENT = 8  # bytes, at which the library lets the data begin


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Return the number of bytes of a tensor of this shape and type."""
    return prod(shape) * RAW_TYPES[dtype].itemsize


def write_safetensors(
    file: BinaryIO,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    tensors: Iterable[Float32],
) -> None:
    """Write a whole file.

    Args:
        file: is open for writing, at its beginning.
        shapes: name -> shape of each tensor.
        dtype: type of all of them in the file: `float32`, `float16` or `bfloat16`.
        tensors: float32 arrays in the order of `shapes`; one at a time is asked for.

    Raises:
        UsageError: a value is too large for the type; names the tensor.
        OSError: the file cannot be written.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # which the library asks for
    position = 0
    for name, shape in shapes.items():
        end = position + tensor_bytes(shape, dtype)
        entries[name] = {"dtype": _TYPES[dtype], "shape": shape, "data_offsets": [position, end]}
        position = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        try:
            raw = from_float32(tensor, dtype)
        except UsageError as error:
            raise UsageError(f"tensor {name}: {error}; choose float32 or bfloat16") from error
        file.write(raw.reshape(shape).tobytes())
