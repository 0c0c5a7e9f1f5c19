"""Compiled programs in the cache folder: found again, renewed, and done without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbe_cli.kernels.instruction_sets import available
from rbe_cli.kernels.native import _compile_apart, _path, cache_folder, compile_entry
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
    result = subprocess.run(
        [sys.executable, "-c", LOAD],
        capture_output=True,
        text=True,
        env=os.environ | {"RBE_CACHE_DIR": str(folder)} | environment,
    )
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
    assert _compile_apart(entry, instructions) == compile_entry(entry, instructions)


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
