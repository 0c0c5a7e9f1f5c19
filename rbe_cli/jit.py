"""The one way kernels are compiled.

Machine code is cached on disk, next to the module or, if that folder cannot be written, in
Numba's cache folder of the user; where nothing can be written, it lasts for the process.
Kernels are module-level functions: closures would miss the cache in every process. Numba
looks at a kernel's own file alone to decide whether its cached code is still valid, so after
editing a helper that another module's kernel calls, delete that kernel's `__pycache__`.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from numba import njit

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def _survive_full_disk(dispatcher: Any) -> None:
    """Let a kernel whose code cannot be kept be used all the same."""
    save = dispatcher._cache.save_overload

    def save_if_possible(signature: object, code: object) -> None:
        with suppress(OSError):
            save(signature, code)

    dispatcher._cache.save_overload = save_if_possible


def jit() -> Callable[[Kernel], Kernel]:
    """Compile on first call, without the GIL and without checks for division by zero.

    A product may be contracted with a sum to a fused multiply-add. The order of sums stays as it
    is written, so that a kernel gives the same bits in every run: left to the compiler
    (`reassoc`), it may differ between code that was just compiled and the same from the cache.
    """

    def compiled(function: Kernel, cache: bool) -> Kernel:
        # Python's error model would keep loops that divide from being vectorised.
        decorate = njit(cache=cache, nogil=True, error_model="numpy", fastmath={"contract"})
        dispatcher = decorate(function)
        _survive_full_disk(dispatcher)
        return cast(Kernel, dispatcher)

    def decorate(function: Kernel) -> Kernel:
        try:
            return compiled(function, cache=True)
        except RuntimeError:  # there is no folder the cache could be written to
            return compiled(function, cache=False)

    return decorate


def native_jit(function: Kernel) -> Kernel:
    """Compile on first use for kernels that run without Numba (kernels/native.py).

    Such a function takes numbers, records and vectors, no arrays, allocates nothing and raises
    nothing; it can be called by compiled code alone.
    """
    compiler: Any = njit  # whose annotations leave some options out
    decorate = compiler(
        nogil=True, error_model="numpy", fastmath={"contract"},
        no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False,
    )  # fmt: skip
    return cast(Kernel, decorate(function))
