"""Hold a matrix that stays entropy-coded in memory, and is decoded each time it is used."""

from collections.abc import Mapping

from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix
from rbe_cli.codec.ectcq.unpacking import Unpacking, UnpackingMemory
from rbe_cli.runtime.arrays import Floating
from rbe_cli.weights.compressed_matrix import CompressedMatrix
from rbe_cli.weights.panel_matrix import PanelMatrix
from rbe_cli.weights.trellis_panels import TrellisPanels


class CodedMatrix(CompressedMatrix):
    """Trade speed for memory: hold `[K, N]` in as many bytes as the file does."""

    is_packed = True

    def __init__(self, encoded: EncodedMatrix) -> None:
        self.encoded = encoded
        self.shape = encoded.shape

    @property
    def nbytes(self) -> int:
        """Return the bytes in memory."""
        return self.encoded.nbytes

    @property
    def block_weights(self) -> int:
        """Return the weights of the largest block, which a thread decodes at once."""
        rows, columns = self.shape
        return rows * max(own.stop - own.start for own in column_blocks(columns))

    def decoded(self) -> TrellisPanels:
        """Return the matrix in panels.

        Raises:
            PayloadError: its bytes are wrong.
        """
        matrices = [self.encoded]
        unpacking = Unpacking(matrices, UnpackingMemory([matrices], 1))
        unpacking.run()
        return unpacking.panels(0).copied()

    def parameters(self) -> dict[str, Floating]:
        """Return what can be trained of the matrix in panels."""
        return self.decoded().parameters()

    def with_parameters(self, values: Mapping[str, Floating]) -> PanelMatrix:
        """Return the matrix in panels with other steps."""
        return self.decoded().with_parameters(values)

    def parameter_gradients(self, grad: Floating) -> dict[str, Floating]:
        """Return the gradients of the parameters of the matrix in panels."""
        return self.decoded().parameter_gradients(grad)
