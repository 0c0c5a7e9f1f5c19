"""From a stored tensor to its values."""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix
from rbe_cli.codec.fixed.fixed_matrix import FixedMatrix
from rbe_cli.codec.vectors.coded_vector import decode_vector
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import PayloadError
from rbe_cli.model.tensor_names import is_embedding

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
