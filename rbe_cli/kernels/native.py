"""Compiled kernels that are loaded without Numba, which alone would take a quarter of a second.

An entry is a function of `native_jit` that takes int64 numbers. Numba compiles it once for a
CPU; its object code is kept in the user's cache folder under a name that tells all it depends
on: the kernels' sources, the compiler's version, the CPU and the instruction set. Where nothing
can be kept, it lasts for the process.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import xxhash
from llvmlite import binding

from rbe_cli.kernels.cpus import affine_cpus
from rbe_cli.kernels.instruction_sets import InstructionSet
from rbe_cli.progress import Progress, no_progress

_STAGE = "compiling kernels (first run only)"
_HASH_BYTES = 8


class Entry(NamedTuple):
    """A compiled function that Python may call.

    Attributes:
        module, function: where it is defined. Its first argument is an arithmetic (dot.py).
        numbers: int64 arguments after the first.
    """

    module: str
    function: str
    numbers: int


class Native:
    """A loaded entry: call it with its numbers, without the GIL.

    Attributes:
        address: of its machine code, `int32 (void *, void *, int64 ...)`.
    """

    def __init__(self, address: int, numbers: int) -> None:
        self.address = address
        pointers, ints = [ctypes.c_void_p] * 3, [ctypes.c_int64] * numbers
        self._function = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers, *ints)(address)
        # Numba's convention: where to return a result and an error, of which there are none;
        # and the arithmetic, of which nothing is left but its type.
        self._unused = (ctypes.c_int64 * 2)()
        first = ctypes.addressof(self._unused)
        self._pointers = first, first + 8, None

    def __call__(self, *numbers: int) -> None:
        self._function(*self._pointers, *numbers)


def load(
    entries: Sequence[Entry], instructions: InstructionSet, progress: Progress = no_progress
) -> list[Native]:
    """Machine code of `entries`, compiled if it is not in the cache folder.

    Args:
        entries: what to load.
        instructions: one of `instruction_sets.available()`.
        progress: hears of compilation, if there is any.
    """
    missing = []
    for entry in entries:
        if (entry, instructions) not in _loaded:
            code = _read(entry, instructions)
            if code is None:
                missing.append(entry)
            else:
                _loaded[entry, instructions] = _link(entry, code)
    if missing:
        _compile_all(missing, instructions, progress)
    return [_loaded[entry, instructions] for entry in entries]


def _compile_all(
    entries: Sequence[Entry], instructions: InstructionSet, progress: Progress
) -> None:
    """Compile, keep and link entries: each in a process of its own, as Numba has one lock."""
    progress(_STAGE, 0, len(entries))
    pool = ThreadPoolExecutor(affine_cpus())
    try:
        codes = pool.map(partial(_compile_apart, instructions=instructions), entries)
        for step, (entry, found) in enumerate(zip(entries, codes, strict=True), 1):
            code = found or compile_entry(entry, instructions)
            _write(entry, instructions, code)
            _loaded[entry, instructions] = _link(entry, code)
            progress(_STAGE, step, len(entries))
    finally:
        pool.shutdown(cancel_futures=True)


def _compile_apart(entry: Entry, instructions: InstructionSet) -> bytes | None:
    """Object code from another process; None where none can be started, or it was stopped."""
    program = (
        "import sys; from rbe_cli.kernels import instruction_sets, native; "
        f"entry = native.Entry{tuple(entry)!r}; "
        f"chosen = instruction_sets.InstructionSet({instructions.value!r}); "
        "sys.stdout.buffer.write(native.compile_entry(entry, chosen))"
    )
    try:
        path = os.pathsep.join(sys.path)
        result = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONPATH": path},
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout


_loaded: dict[tuple[Entry, InstructionSet], Native] = {}


def cache_folder() -> Path:
    """Where machine code is kept: `RBE_CACHE_DIR`, or `rbe` in the user's cache folder."""
    if own := os.environ.get("RBE_CACHE_DIR"):
        return Path(own)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "~/AppData/Local")
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "rbe"


def _symbol(entry: Entry) -> str:
    return f"rbe_{entry.function}"


@cache
def _path(entry: Entry, instructions: InstructionSet) -> Path:
    """Names everything that the machine code depends on."""
    features = binding.get_host_cpu_features().flatten()
    parts = [
        *(source.read_bytes() for source in _sources(entry)),
        f"{binding.llvm_version_info} {sys.version_info[:2]}".encode(),
        f"{binding.get_default_triple()} {binding.get_host_cpu_name()} {features}".encode(),
    ]
    key = xxhash.xxh3_128_hexdigest(b"\0".join(parts))
    return cache_folder() / f"{entry.function}-{instructions.name}-{key}.o"


def _sources(entry: Entry) -> Iterator[Path]:
    """The files whose text goes into the machine code."""
    yield _file("numba").with_name("_version.py")
    yield _file("rbe_cli.jit")
    yield _file("rbe_cli.codec.panels")
    for folder in sorted({Path(__file__).parent, _file(entry.module).parent}):
        yield from sorted(folder.glob("*.py"))


def _file(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _read(entry: Entry, instructions: InstructionSet) -> bytes | None:
    """Cached object code; None if there is none, or if it is damaged."""
    try:
        data = _path(entry, instructions).read_bytes()
    except OSError:
        return None
    code = data[_HASH_BYTES:]
    return code if xxhash.xxh3_64_digest(code) == data[:_HASH_BYTES] else None


def _write(entry: Entry, instructions: InstructionSet, code: bytes) -> None:
    """Keep object code, if that is possible."""
    path = _path(entry, instructions)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(xxhash.xxh3_64_digest(code) + code)
        try:
            os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)


def compile_entry(entry: Entry, instructions: InstructionSet) -> bytes:
    """Object code of an entry, which defines `_symbol(entry)`."""
    from numba.core import config as compiler_config
    from numba.core import types

    from rbe_cli.kernels.dot import Arithmetic, choice_type

    dispatcher: Any = getattr(import_module(entry.module), entry.function)
    signature = choice_type(Arithmetic(instructions)), *[types.int64] * entry.numbers
    # Numba would optimise a function anew wherever it is called; here all are optimised once.
    config: Any = compiler_config
    usual = config.OPT
    config.OPT = type(usual)(0)
    try:
        dispatcher.compile(signature)
    finally:
        config.OPT = usual
    name = dispatcher.overloads[signature].fndesc.llvm_func_name
    text = dispatcher.inspect_llvm(signature).replace(f"@{name}(", f"@{_symbol(entry)}(")
    module = binding.parse_assembly(text)
    for function in module.functions:
        if not function.is_declaration and function.name != _symbol(entry):
            function.linkage = "internal"
    options = binding.create_pipeline_tuning_options(speed_level=3)
    builder = binding.create_pass_builder(_target_machine(), options)
    builder.getModulePassManager().run(module, builder)
    return _target_machine().emit_object(module)


@cache
def _target_machine() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )


def _link(entry: Entry, code: bytes) -> Native:
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _target_machine())
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    return Native(engine.get_function_address(_symbol(entry)), entry.numbers)


_engines: list[Any] = []  # own the memory of the machine code
