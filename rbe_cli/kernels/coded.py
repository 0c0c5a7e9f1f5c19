"""A matrix that stays entropy-coded in memory, and is decoded each time it is used."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbe_cli.kernels.panel import PanelMatrix

if TYPE_CHECKING:
    from rbe_cli.codec.matrix import EncodedMatrix  # needs Numba


@dataclass(frozen=True, eq=False)
class CodedMatrix:
    """Trades speed for memory: `[K, N]` in as many bytes as in the file."""

    encoded: "EncodedMatrix"

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        return self.encoded.shape

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.encoded.nbytes

    def decoded(self) -> PanelMatrix:
        """The matrix in panels.

        Raises:
            PayloadError: its bytes are wrong.
            OverflowError: an integer is too large for panels.
        """
        return PanelMatrix.from_blocks(self.shape, self.encoded.decoded_blocks())
