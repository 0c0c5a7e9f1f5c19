"""Hold a matrix that stays entropy-coded in memory, and is decoded each time it is used."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbe_cli.runtime.arrays import Float32, Floating
from rbe_cli.weights.compressed_matrix import CompressedMatrix
from rbe_cli.weights.panel_matrix import PanelMatrix


class EncodedBlocks(Protocol):
    """Describe an entropy-coded matrix `[K, N]`, which decodes block by block."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return (K, N)."""

    @property
    def nbytes(self) -> int:
        """Return the bytes in memory."""

    def decode(self) -> Float32:
        """Return the whole matrix as float32."""

    def decoded_blocks(self) -> Iterator[tuple[slice, NDArray[np.int16], Float32]]:
        """Yield the columns, integers and steps of each block in turn."""


class CodedMatrix(CompressedMatrix):
    """Trade speed for memory: hold `[K, N]` in as many bytes as the file does."""

    is_packed = True

    def __init__(self, encoded: EncodedBlocks) -> None:
        self.encoded = encoded
        self.shape = encoded.shape

    @property
    def nbytes(self) -> int:
        """Return the bytes in memory."""
        return self.encoded.nbytes

    def decoded(self) -> PanelMatrix:
        """Return the matrix in panels.

        Raises:
            PayloadError: its bytes are wrong.
            OverflowError: an integer is too large for panels.
        """
        return PanelMatrix.from_blocks(self.shape, self.encoded.decoded_blocks())

    def parameters(self) -> dict[str, Floating]:
        """Return what can be trained of the matrix in panels."""
        return self.decoded().parameters()

    def with_parameters(self, values: Mapping[str, Floating]) -> PanelMatrix:
        """Return the matrix in panels with other steps."""
        return self.decoded().with_parameters(values)

    def parameter_gradients(self, grad: Floating) -> dict[str, Floating]:
        """Return the gradients of the parameters of the matrix in panels."""
        return self.decoded().parameter_gradients(grad)
