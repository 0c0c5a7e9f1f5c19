"""Define what a weight matrix on a GPU can do, in whatever form it lies there."""

from abc import ABC, abstractmethod
from typing import Any

from rbe_cli.cuda.product_output import HAS_ADDED, HAS_BIAS
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_records import ACTIVATIONS
from rbe_cli.model.config import Activation

MOST_TOKENS = 1024
"""Tokens that are multiplied at once at most: their rounded inputs lie in memory."""


class DeviceMatrix(ABC):
    """Represent a matrix `[K inputs, N outputs]` on the GPU.

    Attributes:
        shape: (K, N).
        most_tokens: how many tokens are multiplied at once.
    """

    shape: tuple[int, int]
    most_tokens: int = MOST_TOKENS

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Return the bytes of the matrix in the GPU's memory."""

    def input_bytes(self, tokens: int) -> int:
        """Return the bytes that a product of so many tokens takes beside x and its output."""
        return 0

    @abstractmethod
    def columns(self, indices: Any, out: Any) -> None:
        """Set out `[n, K]` to the columns of int32 indices `[n]`, which are below N; both lie on
        the GPU.
        """

    @abstractmethod
    def _multiply(self, x: Any, outputs: "Outputs") -> None:
        """Multiply at most `most_tokens` tokens."""

    def multiply(
        self,
        x: Any,
        out: Any,
        bias: Any = None,
        activation: Activation | None = None,
        add: Any = None,
    ) -> None:
        """Set out to activation(x W + bias) + add; all arrays are float32 on the GPU, contiguous.

        Args:
            x: `[tokens, K]`.
            out: `[tokens, N]`.
            bias: `[N]`, or None.
            activation: function of the outputs, or None.
            add: `[tokens, N]`, or None; it may be `out`.

        Raises:
            UsageError: an array has a wrong shape.
        """
        tokens = x.shape[0]
        self._check("x", x.shape, (tokens, self.shape[0]))
        self._check("out", out.shape, (tokens, self.shape[1]))
        if bias is not None:
            self._check("bias", bias.shape, (self.shape[1],))
        if add is not None:
            self._check("add", add.shape, out.shape)
        if 1 <= tokens <= self.most_tokens:
            self._multiply(x, Outputs(out, bias, activation, add))
            return
        for start in range(0, tokens, self.most_tokens):
            own = slice(start, min(start + self.most_tokens, tokens))
            added = None if add is None else add[own]
            self._multiply(x[own], Outputs(out[own], bias, activation, added))

    @staticmethod
    def _check(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if tuple(shape) != expected:
            raise UsageError(f"`{name}` of a product has the shape {shape}, not {expected}")


class Outputs:
    """Say what becomes of a product, as the kernels' `finish` takes it.

    Attributes:
        out, added: `[tokens, N]`.
        bias: `[N]`.
        activation: number in `ACTIVATIONS`; -1 for none.
        flags: which of them there are.
    """

    def __init__(self, out: Any, bias: Any, activation: Activation | None, added: Any) -> None:
        self.out = out
        self.added = out if added is None else added
        self.bias = bias
        self.activation = -1 if activation is None else ACTIVATIONS[activation]
        self.flags = (HAS_BIAS if bias is not None else 0) | (HAS_ADDED if added is not None else 0)

    def arguments(self, lanes: Any, steps: Any, overflow: Any, more_flags: int) -> tuple[Any, ...]:
        """Return the arguments of a kernel from `lanes` to `flags`."""
        bias = steps if self.bias is None else self.bias
        flags = self.flags | more_flags
        return lanes, steps, bias, overflow, self.added, self.out, self.activation, flags
