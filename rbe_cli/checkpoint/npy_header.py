"""Check the header of a `.npy` array before numpy makes room for what it says."""

import math
from typing import BinaryIO

import numpy as np

# By version; a third is for names of fields, which no array of numbers has.
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def check_npy_header(file: BinaryIO, size: int) -> None:
    """Refuse an array whose header promises more than its file holds.

    Args:
        file: at the beginning of the array; it stands behind the header afterwards.
        size: bytes of the array's file.

    Raises:
        ValueError: the array is larger than its file, or its header cannot be read.
        OSError: the file cannot be read.
    """
    try:
        read_header = _HEADERS[np.lib.format.read_magic(file)]
        shape, _, dtype = read_header(file)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # numpy's header parser lets errors of many classes through
        raise ValueError("the header cannot be read") from error
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
        raise ValueError("the header promises more than the file holds")
