"""Compile libraries to object files, which run without Numba.

`python -m rbe_cli.runtime.build` writes the object files that ship with the package; building a
wheel and `make` run it. `python -m rbe_cli.runtime.build aarch64` writes those of 64-bit Arm Linux,
whatever machine it runs on, and `python -m rbe_cli.runtime.build LIBRARY SET` writes one to stdout.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from llvmlite import binding

from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime import object_files
from rbe_cli.runtime.child_python import run_child_python
from rbe_cli.runtime.compile_target import compile_for
from rbe_cli.runtime.cpu_features import architecture
from rbe_cli.runtime.cpus import affine_cpus
from rbe_cli.runtime.instruction_sets import Baseline, InstructionSet, baseline, buildable
from rbe_cli.runtime.libraries import LIBRARIES, compiled_set

Job = tuple[str, InstructionSet]
_STAGE = "compiling kernels (first run only)"


def compile_libraries(
    jobs: Sequence[Job], progress: Progress = no_progress
) -> Iterator[tuple[Job, bytes]]:
    """Yield the object file of each job.

    Each is made in a process of its own, as Numba compiles one function at a time.
    """
    progress(_STAGE, 0, len(jobs))
    pool = ThreadPoolExecutor(affine_cpus())
    try:
        for done, (job, file) in enumerate(zip(jobs, pool.map(_compile_apart, jobs), strict=True)):
            yield job, file or compile_library(*job)
            progress(_STAGE, done + 1, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)


def _compile_apart(job: Job) -> bytes | None:
    """Return the object file from another process; None where it failed or none can start."""
    library, instructions = job
    try:
        done = run_child_python("-m", "rbe_cli.runtime.build", library, instructions.name)
    except OSError:
        return None
    return None if done.returncode else done.stdout


def compile_library(library: str, instructions: InstructionSet) -> bytes:
    """Return the object file of a library, compiled in this process."""
    machine = _target_machine(baseline(instructions))
    module = _linked(library, instructions)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    options = binding.create_pipeline_tuning_options(speed_level=3)
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return object_files.pack(machine.emit_object(module), instructions, _sources())


def _linked(library: str, instructions: InstructionSet) -> Any:
    """Return one module of LLVM's language that defines the library's programs."""
    from numba.core import types

    from rbe_cli.runtime.arithmetic import Arithmetic, choice_type
    from rbe_cli.runtime.jit import BitcodePiece

    compile_for(baseline(instructions))
    symbols: dict[str, str] = {}
    pieces: dict[Any, None] = {}  # in the order in which they are found
    for program in LIBRARIES[library]:
        dispatcher: Any = getattr(import_module(program.module), program.function)
        parameters = [_type(types, name) for name in program.parameters]
        signature = choice_type(Arithmetic(instructions)), *parameters
        dispatcher.compile(signature)
        compiled = dispatcher.overloads[signature]
        symbols[compiled.fndesc.llvm_func_name] = program.symbol
        _collect(compiled.library, pieces)
    module = binding.parse_assembly("")
    for piece in pieces:
        own = (
            piece._final_module
            if isinstance(piece, BitcodePiece)
            else piece._get_module_for_linking()
        )
        module.link_in(binding.parse_assembly(str(own)))
    for function in module.functions:
        if not function.is_declaration:
            symbol = symbols.get(function.name)
            function.linkage = "external" if symbol else "internal"
            function.name = symbol or function.name
    return module


def _collect(library: Any, found: dict[Any, None]) -> None:
    """Add a library of Numba, and those that it needs, to `found`."""
    if library not in found:
        found[library] = None
        for other in library._linking_libraries:
            _collect(other, found)


def _type(types: Any, parameter: str) -> Any:
    """Return Numba's type of a program's parameter."""
    name, bracket, dimensions = parameter.partition("[")
    scalar = getattr(types, name)
    return types.Array(scalar, dimensions.count(",") + 1, "C") if bracket else scalar


def _target_machine(target: Baseline) -> Any:
    """Return what emits machine code for a baseline, of this architecture or of another."""
    if target.architecture == architecture():
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        found = binding.Target.from_default_triple()
    else:
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        found = binding.Target.from_triple(f"{target.architecture}-unknown-linux-gnu")
    return found.create_target_machine(cpu=target.cpu, features=target.features, opt=3)


def _sources() -> list[Path]:
    """Return the source files of all modules of the package that are loaded: those of the code."""
    modules = [own for name, own in sys.modules.items() if name.partition(".")[0] == "rbe_cli"]
    return [Path(own.__file__) for own in modules if own.__file__]


def _build_all(machine: str | None) -> None:
    """Write an architecture's object files, unless they are up to date; None for this one's."""
    jobs = [
        (library, instructions)
        for library in LIBRARIES
        for instructions in buildable(machine)
        if compiled_set(library, instructions) is instructions
        and object_files.find_shipped(library, instructions) is None
    ]
    for step, ((library, instructions), file) in enumerate(compile_libraries(jobs), 1):
        path = object_files.ship(library, instructions, file)
        print(f"compiled {path.name} ({step} of {len(jobs)})", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _library, _name = sys.argv[1:]
        sys.stdout.buffer.write(compile_library(_library, InstructionSet(_name)))
    else:
        _build_all(sys.argv[1] if sys.argv[1:] else None)
