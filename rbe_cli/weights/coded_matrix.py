"""Hold a matrix that stays entropy-coded in memory, and is decoded each time it is used."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from rbe_cli.runtime.arrays import Float32, Floating
from rbe_cli.weights.compressed_matrix import CompressedMatrix
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.trellis_code import TrellisBlock
from rbe_cli.weights.trellis_panels import TrellisPanels


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

    @property
    def states(self) -> int:
        """Return the number of states of the trellis."""

    def blocks_along_trellis(self) -> Iterator[TrellisBlock]:
        """Yield each block from the first column to the last."""


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

    def decoded(self) -> TrellisPanels:
        """Return the matrix in panels.

        Raises:
            PayloadError: its bytes are wrong.
        """
        blocks, states = self.encoded.blocks_along_trellis(), self.encoded.states
        return TrellisPanels.from_blocks(self.shape, blocks, states)

    def parameters(self) -> dict[str, Floating]:
        """Return what can be trained of the matrix in panels."""
        return self.decoded().parameters()

    def with_parameters(self, values: Mapping[str, Floating]) -> PanelMatrix:
        """Return the matrix in panels with other steps."""
        return self.decoded().with_parameters(values)

    def parameter_gradients(self, grad: Floating) -> dict[str, Floating]:
        """Return the gradients of the parameters of the matrix in panels."""
        return self.decoded().parameter_gradients(grad)
