"""Load compiled programs without Numba, whose import alone takes a quarter of a second."""

import ctypes
import os
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np

from rbe_cli.errors import RbeError
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime import object_files
from rbe_cli.runtime.elf_object import place_object
from rbe_cli.runtime.instruction_sets import InstructionSet, chosen, ships_objects
from rbe_cli.runtime.libraries import LIBRARIES, Program, compiled_set, library_of

_SCALARS = {"int64": ctypes.c_int64, "float64": ctypes.c_double}


class _Array:
    """Describe the type of an array that a program takes: how Numba passes it, as numbers."""

    def __init__(self, parameter: str) -> None:
        name, _, dimensions = parameter.partition("[")
        self.dtype = np.dtype(name)
        self.ndim = dimensions.count(",") + 1
        # An owner and a parent, which there are not; elements, bytes of one, address.
        numbers = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2 + [ctypes.c_void_p]
        self.types = [*numbers, *[ctypes.c_int64] * 2 * self.ndim]

    def flatten(self, array: np.ndarray[Any, Any]) -> tuple[int | None, ...]:
        """Return the numbers that stand for an array.

        Raises:
            TypeError: it is of another type, which machine code would misread, or in pieces.
        """
        fits = array.dtype == self.dtype and array.ndim == self.ndim
        if not fits or not array.flags.c_contiguous:
            raise TypeError(
                f"a compiled program takes contiguous {self.dtype} of {self.ndim} dimensions, "
                f"not {array.dtype} of {array.ndim}"
            )
        place = array.ctypes.data
        return None, None, array.size, array.itemsize, place, *array.shape, *array.strides


class Native:
    """Hold a loaded program: call it with its arguments; it runs without the GIL.

    Attributes:
        address: of its machine code, `int32 (void *, void *, void *, ...)`.
    """

    def __init__(self, address: int, program: Program) -> None:
        self.address = address
        self._name = program.function
        self._has_result = program.has_result
        self._arrays = [
            None if parameter in _SCALARS else _Array(parameter) for parameter in program.parameters
        ]
        self._takes_numbers = not any(self._arrays)
        types: list[Any] = []
        for parameter, array in zip(program.parameters, self._arrays, strict=True):
            types += array.types if array else [_SCALARS[parameter]]
        self._function = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3, *types)(address)
        # Numba's convention: where to return a result and an error; and the arithmetic, of which
        # nothing is left but its type.
        self._unused = (ctypes.c_int64 * 2)()
        first = ctypes.addressof(self._unused)
        self._pointers = first, first + 8, None

    def __call__(self, *arguments: Any) -> Any:
        """Run the program and return its result, if it has one.

        Raises:
            TypeError: an argument is not of the type that the program takes.
            RuntimeError: the program ended with an error: it was compiled with checks
                (`NUMBA_BOUNDSCHECK`), and one failed.
        """
        if self._takes_numbers and not self._has_result:
            status = self._function(*self._pointers, *arguments)
        else:
            result = ctypes.c_int64()
            flat: list[Any] = []
            for array, argument in zip(self._arrays, arguments, strict=True):
                flat += array.flatten(argument) if array else (argument,)
            status = self._function(ctypes.addressof(result), *self._pointers[1:], *flat)
        if status:
            raise RuntimeError(f"{self._name} ended with status {status}")
        return result.value if self._has_result else None


def load(
    programs: Sequence[Program],
    instructions: InstructionSet | None = None,
    progress: Progress = no_progress,
) -> list[Native]:
    """Return compiled programs; their libraries are compiled if no object file fits.

    Args:
        programs: of `libraries`.
        instructions: one of `instruction_sets.available()`; None for `instruction_sets.chosen`.
        progress: is called while libraries are compiled.
    """
    instructions = instructions or chosen()
    keys = [(program, instructions) for program in programs]
    if any(key not in _loaded for key in keys):
        prepare({library_of(program) for program in programs}, instructions, progress)
    return [_loaded[key] for key in keys]


def prepare(
    libraries: Collection[str],
    instructions: InstructionSet | None = None,
    progress: Progress = no_progress,
) -> None:
    """Load libraries, so that none of their programs is compiled later; arguments as of `load`.

    Raises:
        RbeError: no object file fits, and the compiler is not installed.
    """
    instructions = instructions or chosen()
    with _loading:
        missing = []
        for library in sorted(libraries):
            if (LIBRARIES[library][0], instructions) in _loaded:
                continue
            compiled = compiled_set(library, instructions)
            if code := object_files.find(library, compiled):
                _link(library, instructions, code)
            else:
                missing.append((library, compiled))
        if missing:
            _check_compiler()
            from rbe_cli.runtime.build import compile_libraries

            for (library, compiled), file in compile_libraries(missing, progress):
                object_files.keep(library, compiled, file)
                _link(library, instructions, object_files.code_of(file))


def _link(library: str, instructions: InstructionSet, code: bytes) -> None:
    """Place machine code in memory, and make its programs known."""
    place = place_object if ships_objects() else _place_by_llvm
    addresses = place(code)
    for program in reversed(LIBRARIES[library]):  # the first tells that all are there
        _loaded[program, instructions] = Native(addresses[program.symbol], program)


def _place_by_llvm(code: bytes) -> Mapping[str, int]:
    """Return the addresses of an object file's functions, where LLVM has compiled it."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    symbols = [program.symbol for programs in LIBRARIES.values() for program in programs]
    return {symbol: engine.get_function_address(symbol) for symbol in symbols}


def _check_compiler() -> None:
    """Check that programs can be compiled.

    Raises:
        RbeError: Numba or LLVM is missing.
    """
    if not all(find_spec(name) for name in ("numba", "llvmlite")):
        raise RbeError(
            "no compiled programs for this machine and version came with rbe-cli: "
            "pip install 'rbe-cli[compile]' lets it compile them"
        )


_loaded: dict[tuple[Program, InstructionSet], Native] = {}
_engines: list[Any] = []  # own the memory of the machine code that LLVM has placed
_loading = Lock()


def _after_fork() -> None:
    """Free the lock that another thread may have held."""
    global _loading
    _loading = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
