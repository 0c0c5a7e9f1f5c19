"""Define what every compressed form of a weight matrix can do."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from rbe_cli.runtime.arrays import Floating

if TYPE_CHECKING:
    from rbe_cli.weights.panel_matrix import PanelMatrix


class CompressedMatrix(ABC):
    """Represent a matrix `[K inputs, N outputs]` that is not an array of its weights.

    Attributes:
        shape: (K, N).
        is_packed: whether kernels multiply by the compressed form, some 256 tokens at a time.
    """

    shape: tuple[int, int]
    is_packed: ClassVar[bool]

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Return the bytes in memory."""

    @property
    def kept_bytes(self) -> int:
        """Return the bytes of a decoded copy that is kept beside the compressed form."""
        return 0

    @abstractmethod
    def decoded(self) -> "Floating | PanelMatrix":
        """Return the matrix in a form that can be multiplied by: panels, or an array `[K, N]`.

        Raises:
            PayloadError: the bytes of an entropy-coded matrix are wrong.
        """

    @abstractmethod
    def parameters(self) -> dict[str, Floating]:
        """Return what can be trained, by the suffix of its name."""

    @abstractmethod
    def with_parameters(self, values: Mapping[str, Floating]) -> "CompressedMatrix":
        """Return the same matrix with other values of all that `parameters` names."""

    @abstractmethod
    def parameter_gradients(self, grad: Floating) -> dict[str, Floating]:
        """Return the gradients of what `parameters` names, from that of the weights `[K, N]`."""
