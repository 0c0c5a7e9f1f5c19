"""Compiled programs: shipped, or compiled once; and the arguments that they take."""

import os
import signal
import sys
import time
from subprocess import PIPE

import numpy as np
import pytest
from deadlines import run_python, started

from rbe_cli.runtime import build, native, object_files
from rbe_cli.runtime.instruction_sets import available, buildable
from rbe_cli.runtime.libraries import (
    ACTIVATE,
    LEAD,
    LIBRARIES,
    QUANTISE_SEGMENT,
    RANS_GET_RUN,
    compiled_set,
    library_of,
)

LOAD = """
import sys
from pathlib import Path
from rbe_cli.runtime import native, object_files

{shipped}
steps = []
native.prepare(["layers"], None, lambda *call: steps.append(call[1:]))
print(steps, "numba" in sys.modules)
"""
WITHOUT_SHIPPED = "object_files.SHIPPED = Path('/missing')"


def run(folder, shipped=""):
    """What a new process prints that loads the layers' programs."""
    environment = os.environ | {"RBE_CACHE_DIR": str(folder)}
    result = run_python(LOAD.format(shipped=shipped), env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_shipped_programs_need_no_compiler(tmp_path):
    assert run(tmp_path) == "[] False\n"
    assert not list(tmp_path.iterdir())


WITHOUT_COMPILER = "sys.modules['numba'] = sys.modules['llvmlite'] = None"


def test_shipped_programs_need_no_numba_and_no_llvm(tmp_path):
    assert run(tmp_path, WITHOUT_COMPILER) == "[] True\n"  # in sys.modules, as forbidden


def test_what_is_missing_without_a_compiler_is_said(tmp_path):
    code = LOAD.format(shipped=f"{WITHOUT_SHIPPED}; {WITHOUT_COMPILER}")
    result = run_python(code, env=os.environ | {"RBE_CACHE_DIR": str(tmp_path)})
    assert result.returncode == 1
    assert "RbeError" in result.stderr
    assert "pip install 'rbe-cli[compile]'" in result.stderr


def test_without_shipped_programs_only_the_first_process_compiles(tmp_path):
    assert run(tmp_path, WITHOUT_SHIPPED) == "[(0, 1), (1, 1)] False\n"
    assert run(tmp_path, WITHOUT_SHIPPED) == "[] False\n"


def test_what_others_can_write_is_compiled_in_private(tmp_path):
    run(tmp_path, WITHOUT_SHIPPED)
    (file,) = tmp_path.iterdir()
    planted = file.read_bytes()
    tmp_path.chmod(0o777)
    environment = os.environ | {"RBE_CACHE_DIR": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    result = run_python(LOAD.format(shipped=WITHOUT_SHIPPED), env=environment)
    assert result.stdout == "[(0, 1), (1, 1)] False\n"  # compiled
    assert "RefusedCodeWarning" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [file.name]  # Numba keeps nothing either
    assert file.read_bytes() == planted


def test_all_libraries_of_all_instruction_sets_ship():
    for library in LIBRARIES:
        for instructions in buildable():
            compiled = compiled_set(library, instructions)
            assert object_files.find_shipped(library, compiled), (library, compiled)


def test_where_no_process_can_be_started_this_one_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    monkeypatch.setitem(LIBRARIES, "layers", (ACTIVATE,))
    job = "layers", available()[0]
    assert build._compile_apart(job) is None
    ((found, file),) = build.compile_libraries([job])
    assert found == job
    assert object_files.code_of(file)


def test_code_is_named_by_everything_that_goes_into_it():
    compiled = compiled_set("engine", available()[0])
    path = object_files.SHIPPED / object_files.file_name("engine", compiled)
    header, _ = object_files._unpack(path.read_bytes())
    names = (
        "engine/forward_program.py",
        "weights/panel_layout.py",
        "runtime/jit.py",
        "runtime/simd.py",
    )
    assert set(names) <= set(header["sources"])


INTERRUPTED = """
from pathlib import Path
from rbe_cli.runtime import native, object_files

object_files.SHIPPED = Path("/missing")
print("ready", flush=True)
try:
    native.prepare(["engine"])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_an_interruption_does_not_wait_for_the_compiler(tmp_path):
    environment = os.environ | {"RBE_CACHE_DIR": str(tmp_path)}
    with started([sys.executable, "-c", INTERRUPTED], stdout=PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(1)
        os.killpg(child.pid, signal.SIGINT)  # to all processes, as a terminal does
        assert child.stdout.readline() == "interrupted\n"
        assert child.wait() == 0


def test_every_program_is_in_one_library():
    programs = [program for own in LIBRARIES.values() for program in own]
    assert len({program.symbol for program in programs}) == len(programs)
    assert library_of(LEAD) == "engine"


# Arguments


def get_run(words):
    """Call a program whose first argument is uint16 `[n]`."""
    (program,) = native.load([RANS_GET_RUN])
    states, slots = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    return program(words, states, slots, np.zeros(6, np.int64), 0, 0, np.zeros(0, np.int16))


def test_a_program_returns_its_result():
    assert get_run(np.zeros(4, np.uint16)) == 0  # no word is read


@pytest.mark.parametrize(
    "words",
    [np.zeros(4, np.int16), np.zeros((2, 2), np.uint16), np.zeros(8, np.uint16)[::2]],
    ids=["type", "dimensions", "pieces"],
)
def test_arrays_that_would_be_misread_are_refused(words):
    with pytest.raises(TypeError, match="takes contiguous uint16 of 1 dimensions"):
        get_run(words)


def test_a_missing_argument_is_refused():
    (program,) = native.load([QUANTISE_SEGMENT])
    with pytest.raises(ValueError, match="shorter"):
        program(np.zeros(1, np.float32))
