"""The tensors of a loaded model by name: what they are, their values, and other values for them."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import UsageError
from rbe_cli.quoting import quoted
from rbe_cli.runtime.arrays import Float32

if TYPE_CHECKING:
    from typing import Any


class TensorHolder(Protocol):
    """Where a model keeps its tensors."""

    def names(self) -> tuple[str, ...]:
        """Return the canonical names in the order of the file."""

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape that a checkpoint gives to the tensor."""

    def stored(self, name: str) -> StoredTensor:
        """Return what a file would hold of the tensor now."""

    def values(self, name: str) -> Float32:
        """Return a copy of the tensor's values."""

    def replace_tensor(self, name: str, values: Float32) -> None:
        """Give the tensor other values."""


class ModelTensor:
    """One tensor of a model.

    Attributes:
        name: canonical name, such as `h.0.ln_1.weight`.
        shape: as a checkpoint has it; linear layers are `[inputs, outputs]`.
    """

    def __init__(self, name: str, holder: TensorHolder) -> None:
        self.name = name
        self._holder = holder
        self.shape = holder.shape_of(name)

    @property
    def codec(self) -> str:
        """The codec that a file of the model has for the tensor, as `rbe inspect` shows it."""
        return self._holder.stored(self.name).codec

    @property
    def nbytes(self) -> int:
        """Bytes in a file."""
        return len(self._holder.stored(self.name).data)

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape))

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight in a file."""
        return 8 * self.nbytes / self.size

    def read(self) -> Float32:
        """Return the values as float32, in the shape `shape`.

        The array is a copy: to change the model, assign it to `model.tensors[name]`.
        """
        return self._holder.values(self.name)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> "NDArray[Any]":
        """Return the values for numpy.

        Raises:
            ValueError: `copy` is False, as the values have to be decoded.
        """
        if copy is False:
            raise ValueError(f"the values of {self.name} cannot be had without a copy")
        return self.read().astype(np.float32 if dtype is None else dtype, copy=False)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"<{self.name}: {shape}, {self.codec}, {self.bits_per_weight:.3f} bits>"


class ModelTensors(Mapping[str, ModelTensor]):
    """Name -> tensor, in the order of the file. Assigning an array replaces a tensor's values."""

    def __init__(self, holder: TensorHolder) -> None:
        self._holder = holder

    def __getitem__(self, name: str) -> ModelTensor:
        if name not in self._holder.names():
            raise KeyError(name)
        return ModelTensor(name, self._holder)

    def __setitem__(self, name: str, values: ArrayLike) -> None:
        """Replace a tensor by an array of the same shape, which is then stored exactly.

        Raises:
            UsageError: there is no such tensor, its shape differs, or a value is not finite.
        """
        if name not in self._holder.names():
            raise UsageError(f"the model has no tensor {quoted(name)}")
        self._holder.replace_tensor(name, checked(name, values, self._holder.shape_of(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._holder.names())

    def __len__(self) -> int:
        return len(self._holder.names())


def checked(name: str, values: ArrayLike, shape: tuple[int, ...]) -> Float32:
    """Return values as a new float32 array of a shape.

    Raises:
        UsageError: the values have another shape, or are no finite numbers within float32.
    """
    try:
        with np.errstate(over="ignore"):
            found = np.array(values, np.float32, order="C")
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} takes an array of numbers: {error}") from error
    if found.shape != shape:
        raise UsageError(f"{name} has the shape {shape}, not {found.shape}")
    if not np.isfinite(found).all():
        raise UsageError(f"{name} takes finite numbers within float32")
    return found
