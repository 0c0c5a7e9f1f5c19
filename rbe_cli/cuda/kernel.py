"""Kernels with the types of their arguments, so that they can be compiled without a GPU, too."""

from collections.abc import Callable
from typing import Any

from numba import cuda

from rbe_cli.cuda.device import is_simulated
from rbe_cli.errors import UsageError

MOST_THREADS = 1024
"""Threads that a block may have, on every GPU."""
WARP = 32
"""Threads that run in step, on every GPU."""
_FEW_THREADS = 256  # of a block may have 255 registers each, as many as there are

# Decoding launches many small grids, and numba-cuda would warn of each size.
cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0


class Kernel:
    """Hold a kernel, which is compiled for one set of types when it is first launched with it.

    Attributes:
        name: of the function.
        function: the Python source.
        signatures: the types of the arguments, as `void(float32[:, ::1], int32)`; a launch
            names one of them by its index.
        most_threads: threads of its blocks. The compiler gives a thread no more registers than
            so many threads can have together.
    """

    def __init__(
        self,
        function: Callable[..., None],
        signatures: tuple[str, ...],
        most_threads: int = _FEW_THREADS,
    ) -> None:
        self.name = function.__name__
        self.function = function
        self.signatures = signatures
        self.most_threads = most_threads
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
            UsageError: no block, or no thread, or more threads than the kernel's blocks have.
        """
        if blocks < 1 or not 1 <= threads <= self.most_threads:
            raise UsageError(f"{self.name} cannot run {blocks} blocks of {threads} threads")
        if form not in self._compiled:
            # The simulator has no such option.
            bounds = {} if is_simulated() else {"launch_bounds": self.most_threads}
            self._compiled[form] = cuda.jit(self.signatures[form], **bounds)(self.function)
        self._compiled[form][blocks, threads, 0, shared_bytes](*arguments)


KERNELS: dict[str, Kernel] = {}
"""The kernels of all modules that were imported, by name."""


def kernel(
    *signatures: str, most_threads: int = _FEW_THREADS
) -> Callable[[Callable[..., None]], Kernel]:
    """Return a decorator that makes a kernel of a function, and lists it in `KERNELS`.

    Args:
        signatures: as `Kernel.signatures`; more than one for kernels of several element types.
        most_threads: as `Kernel.most_threads`.
    """

    def made(function: Callable[..., None]) -> Kernel:
        found = Kernel(function, signatures, most_threads)
        KERNELS[found.name] = found
        return found

    return made
