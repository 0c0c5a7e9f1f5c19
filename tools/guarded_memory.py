"""Run tests with a page beside each numpy array that no program may read or write.

    .venv/bin/python tools/guarded_memory.py end tests/kernels tests/weights
    .venv/bin/python tools/guarded_memory.py start tests/kernels tests/weights

Compiled programs address memory by numbers, and nothing checks them. Here each array has pages of
its own: with `end` its last byte is the last before a page without access, with `start` its first
byte is the first after one. A program that leaves the array ends the process with SIGSEGV, and
faulthandler prints the test and the call. Memory that is cut into pieces (runtime/arena.py,
`whole_lines`) is one array a piece.

Numpy takes its memory from a handler (NEP 49), which is written with ctypes here, so no compiler is
needed. Linux alone. An array that is freed while an exception passes through C code loses the
exception ("error return without exception set"): that is a fault of this tool, not of a program.
"""

import ctypes
import mmap
import os
import sys
import threading
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rbe_cli.runtime import addresses, arena

_PAGE, _NO_ACCESS = mmap.PAGESIZE, 0
_SET_HANDLER = 304  # the place of PyDataMem_SetHandler in numpy's table of functions
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_CALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _Handler(ctypes.Structure):
    """What numpy calls PyDataMem_Handler."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", _MALLOC),
        ("calloc", _CALLOC),
        ("realloc", _REALLOC),
        ("free", _FREE),
    )


class GuardedMemory:
    """Give each array pages of its own, between two pages without access.

    Attributes:
        arrays: how many arrays had such pages.
    """

    def __init__(self, place: str) -> None:
        """Prepare the handler; `place` is `end` or `start`."""
        self.arrays = 0
        self._ends = place == "end"
        self._known: dict[int, tuple[int, int, int]] = {}  # address: pages, their bytes, size
        self._handler = _Handler(
            b"guarded", 1, None, _MALLOC(self._malloc), _CALLOC(self._calloc),
            _REALLOC(self._realloc), _FREE(self._free),
        )  # fmt: skip
        new_capsule = ctypes.pythonapi.PyCapsule_New
        new_capsule.restype = ctypes.py_object
        new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self._capsule = new_capsule(ctypes.addressof(self._handler), b"mem_handler", None)

    def install(self) -> None:
        """Take the memory of this thread's arrays from here."""
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype = ctypes.c_void_p
        pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        table = pointer(import_module("numpy._core._multiarray_umath")._ARRAY_API, None)
        place = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))[_SET_HANDLER]
        if place is None:
            raise SystemExit("this numpy has no handlers of memory")
        ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(place)(self._capsule)

    def _malloc(self, _: Any, size: int) -> int | None:
        inner = max(-(-size // _PAGE), 1) * _PAGE
        whole = inner + 2 * _PAGE
        pages = _libc.mmap(None, whole, _NO_ACCESS, _PRIVATE, -1, 0)
        if pages is None or pages == ctypes.c_void_p(-1).value:
            return None
        first = pages + _PAGE
        if _libc.mprotect(first, inner, mmap.PROT_READ | mmap.PROT_WRITE):
            return None
        address = first + inner - size if self._ends else first
        self._known[address] = pages, whole, size
        self.arrays += 1
        return int(address)

    def _calloc(self, _: Any, count: int, size: int) -> int | None:
        return self._malloc(None, count * size)  # new pages are zero

    def _realloc(self, _: Any, old: int | None, size: int) -> int | None:
        new = self._malloc(None, size)
        if old and new:
            ctypes.memmove(new, old, min(size, self._known[old][2]))
            self._free(None, old, 0)
        return new

    def _free(self, _: Any, address: int | None, size: int) -> None:
        if address:
            pages, whole, _size = self._known.pop(address)
            _libc.munmap(pages, whole)


def _exactly(rows: int, size: int) -> NDArray[np.uint8]:
    """Return memory `[rows, size]` without the bytes that `whole_lines` adds."""
    return np.empty((rows, size), np.uint8)


def main() -> int:
    """Run pytest; the first argument is `end` or `start`, the others are pytest's."""
    if len(sys.argv) < 2 or sys.argv[1] not in ("end", "start"):
        raise SystemExit(__doc__)
    memory = GuardedMemory(sys.argv[1])
    memory.install()
    bootstrap = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        memory.install()  # a handler is of one thread
        bootstrap(thread)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "run", run)
        patch.setattr(addresses, "whole_lines", _exactly)
        patch.setattr(arena.Arena, "zeros", lambda _, size: np.zeros(size, np.uint8))
        patch.setattr(arena.Arena, "give_back", lambda *_: None)
        status = pytest.main(["-n", "0", "-p", "no:cacheprovider", *sys.argv[2:]])
    print(f"{memory.arrays} arrays lay at the {sys.argv[1]} of pages of their own")
    return int(status)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # arrays that are left have no one to be given back to
