"""Compiled programs in the cache folder: found again, renewed, and done without."""

import os
import signal
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from deadlines import run_python, started

from rbe_cli.engine.plan import FORWARD_PROGRAMS
from rbe_cli.kernels import native
from rbe_cli.kernels.instruction_sets import available
from rbe_cli.kernels.native import _compile_apart, _path, _sources, cache_folder
from rbe_cli.kernels.team import TEAM_PROGRAMS

LOAD = """
import sys
from rbe_cli.kernels.instruction_sets import available
from rbe_cli.kernels.native import load
from rbe_cli.kernels.team import TEAM_PROGRAMS

steps = []
load(TEAM_PROGRAMS, available()[0], lambda *call: steps.append(call[1:]))
print(steps, "numba" in sys.modules)
"""
COMPILED, FOUND = "[(0, 2), (1, 2), (2, 2)] False\n", "[] False\n"


def run(folder, **environment):
    """What a new process prints that loads the team's programs."""
    own = {"RBE_CACHE_DIR": str(folder)}
    result = run_python(LOAD, env=os.environ | own | environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    assert run(folder) == COMPILED
    return folder


def copy(folder, target):
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_the_second_process_needs_no_compiler(filled):
    assert run(filled) == FOUND


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_compiled_again(filled, tmp_path, damage):
    folder = copy(filled, tmp_path)
    for file in folder.iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        changed = {"cut": data[:100], "flip": data, "empty": b""}
        file.write_bytes(changed[damage])
    assert run(folder) == COMPILED
    assert run(folder) == FOUND


def test_a_cache_that_cannot_be_written_is_survived(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    assert run(file / "folder") == COMPILED


def test_where_no_process_can_be_started_this_one_compiles(tmp_path, monkeypatch):
    monkeypatch.setenv("RBE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    entry, instructions = TEAM_PROGRAMS[1], available()[0]
    assert _compile_apart(entry, instructions) is None
    monkeypatch.setattr(native, "_loaded", {})
    _path.cache_clear()
    (loaded,) = native.load([entry], instructions)
    _path.cache_clear()
    assert loaded.address
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["lead"]


def test_code_is_named_by_everything_that_goes_into_it():
    names = [path.name for path in _sources(FORWARD_PROGRAMS[-1])]
    assert {"forward.py", "panels.py", "jit.py", "simd.py"} <= set(names)
    assert names.count("records.py") == 2  # of the kernels and of the engine


INTERRUPTED = """
from rbe_cli.engine.plan import FORWARD_PROGRAMS
from rbe_cli.kernels.instruction_sets import available
from rbe_cli.kernels.native import load

print("ready", flush=True)
try:
    load(FORWARD_PROGRAMS, available()[0])
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_an_interruption_does_not_wait_for_the_compiler(tmp_path):
    with started(
        [sys.executable, "-c", INTERRUPTED],
        stdout=PIPE,
        env=os.environ | {"RBE_CACHE_DIR": str(tmp_path)},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(2)
        os.killpg(child.pid, signal.SIGINT)  # to all processes, as a terminal does
        assert child.stdout.readline() == "interrupted\n"
        assert child.wait(3) == 0


def test_nothing_half_written_is_left(filled):
    names = sorted(path.name.split("-")[0] for path in filled.iterdir())
    assert names == ["lead", "work"]


def test_the_cache_folder_follows_the_system(monkeypatch, tmp_path):
    monkeypatch.setenv("RBE_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("RBE_CACHE_DIR")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rbe"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library/Caches/rbe"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_folder() == tmp_path / "rbe"


def test_names_tell_what_code_depends_on():
    entry = TEAM_PROGRAMS[0]
    paths = {_path(entry, instructions) for instructions in available()}
    assert len(paths) == len(available())
    assert all(path.name.startswith("work-") for path in paths)
