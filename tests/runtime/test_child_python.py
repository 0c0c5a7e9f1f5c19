"""A child process finds this package, and nothing in the current folder."""

import os
import sys
from pathlib import Path

from rbe_cli.runtime.child_python import run_child_python


def test_modules_of_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    for name in ("xxhash", "numba", "msgspec", "rbe_cli", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("print('planted', flush=True)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    done = run_child_python("-c", "import rbe_cli.runtime.object_files, xxhash; print('own')")
    assert done.stdout.split() == [b"own"], done.stderr


def test_it_runs_in_the_package_and_gives_its_status():
    done = run_child_python("-c", "import os, sys; print(os.getcwd()); sys.exit(3)")
    assert done.returncode == 3
    assert Path(os.fsdecode(done.stdout.strip())).name == "rbe_cli"
