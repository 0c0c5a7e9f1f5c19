"""What is imported for the answers that have to come at once."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import run_python

Start = Callable[..., "subprocess.Popen[str]"]
VERBS = ["compress", "inspect", "run", "generate", "bench"]
HEAVY = {"numba", "llvmlite", "tokenizers", "huggingface_hub", "safetensors", "zstandard"}
SCRIPT = """
import sys
from rbe_cli.cli.app import run
code = run(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


def imported(*arguments: str) -> set[str]:
    """Packages that a command line, which has to succeed, imports."""
    done = run_python(SCRIPT, *arguments, check=True)
    assert done.stdout
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([v, "--help"] for v in VERBS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    packages = imported(*arguments)
    assert "typer" in packages
    assert packages.isdisjoint(HEAVY | {"numpy", "rich", "msgspec", "psutil"})


@pytest.mark.parametrize("style", [[], ["--tensors"], ["--format", "json"]])
def test_inspect_imports_nothing_heavy(rbe_file: Path, style: list[str]) -> None:
    packages = imported("inspect", str(rbe_file), *style)
    assert "msgspec" in packages
    assert packages.isdisjoint(HEAVY | {"numpy", "psutil"})


def test_help_names_every_verb(start: Start) -> None:
    out, err = start("--help").communicate()
    for verb in VERBS:
        assert f"\n  {verb} " in out
    assert err == ""
