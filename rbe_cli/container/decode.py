"""From a stored tensor to its values."""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.checkpoint.names import is_embedding
from rbe_cli.codec.classic import ClassicMatrix
from rbe_cli.codec.fixed import FixedMatrix
from rbe_cli.codec.matrix import EncodedMatrix
from rbe_cli.codec.vector import decode_vector
from rbe_cli.container.tensor import StoredTensor
from rbe_cli.errors import PayloadError

_MATRICES: dict[str, type[ClassicMatrix | EncodedMatrix | FixedMatrix]] = {
    "classic": ClassicMatrix,
    "ectcq": EncodedMatrix,
    "fixed": FixedMatrix,
}


def decode(stored: StoredTensor) -> NDArray[np.float32]:
    """The tensor as a checkpoint holds it.

    Raises:
        PayloadError: its bytes are wrong; names the tensor.
    """
    try:
        kind = _MATRICES.get(stored.codec)
        if kind is None:
            return decode_vector(stored.data, stored.shape, stored.codec)
        matrix = kind.from_bytes(stored.data, stored.matrix_shape).decode()
        return matrix.T if is_embedding(stored.name) else matrix
    except PayloadError as error:
        raise PayloadError(f"tensor {stored.name}: {error}") from error
