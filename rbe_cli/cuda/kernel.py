"""Kernels with the types of their arguments, so that they can be compiled without a GPU, too."""

from collections.abc import Callable
from typing import Any

from numba import cuda

from rbe_cli.errors import UsageError

MOST_THREADS = 1024
"""Threads of a block, on every GPU."""
WARP = 32
"""Threads that run in step, on every GPU."""


class Kernel:
    """Hold a kernel, which is compiled for one set of types when it is first launched with it.

    Attributes:
        name: of the function.
        function: the Python source.
        signatures: the types of the arguments, as `void(float32[:, ::1], int32)`; a launch
            names one of them by its index.
    """

    def __init__(self, function: Callable[..., None], signatures: tuple[str, ...]) -> None:
        self.name = function.__name__
        self.function = function
        self.signatures = signatures
        self._compiled: dict[int, Any] = {}

    def launch(
        self, blocks: int, threads: int, *arguments: Any, form: int = 0, shared_bytes: int = 0
    ) -> None:
        """Run the kernel on the default stream; it may go on after the call returns.

        Args:
            blocks, threads: blocks of the grid, and threads of each block.
            arguments: device arrays and numbers, of the types of the signature.
            form: index of the signature.
            shared_bytes: shared memory that a block takes beside the arrays of fixed size.

        Raises:
            UsageError: no block, or no thread, or more threads than a block may have.
        """
        if blocks < 1 or not 1 <= threads <= MOST_THREADS:
            raise UsageError(f"{self.name} cannot run {blocks} blocks of {threads} threads")
        if form not in self._compiled:
            self._compiled[form] = cuda.jit(self.signatures[form])(self.function)
        self._compiled[form][blocks, threads, 0, shared_bytes](*arguments)


KERNELS: dict[str, Kernel] = {}
"""The kernels of all modules that were imported, by name."""


def kernel(*signatures: str) -> Callable[[Callable[..., None]], Kernel]:
    """Return a decorator that makes a kernel of a function, and lists it in `KERNELS`.

    Args:
        signatures: as `Kernel.signatures`; more than one for kernels of several element types.
    """

    def made(function: Callable[..., None]) -> Kernel:
        found = Kernel(function, signatures)
        KERNELS[found.name] = found
        return found

    return made
