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


# Of what generation does not need, what takes longest.
LATER_MODULES = {"rbe_cli.nn.gpt2", "numpy.random", "secrets", "statistics"}
LATER_FOLDERS = ("rbe_cli.bench", "rbe_cli.compression", "rbe_cli.evaluation", "rbe_cli.jobs")


def imported_modules(*arguments: str) -> set[str]:
    """Modules that a command line, which has to succeed, imports."""
    done = run_python(SCRIPT, *arguments, check=True)
    assert done.stdout
    return set(done.stderr.split())


def imported(*arguments: str) -> set[str]:
    """Packages that a command line, which has to succeed, imports."""
    return {name.partition(".")[0] for name in imported_modules(*arguments)}


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


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_imports_no_other_verb(verb: str) -> None:
    modules = imported_modules(verb, "--help")
    homes = {"rbe_cli.cli.run_verb" if own == "run" else f"rbe_cli.cli.{own}" for own in VERBS}
    (home,) = homes & modules
    assert verb in home


def test_generate_imports_what_it_needs(rbe_file: Path) -> None:
    modules = imported_modules("generate", str(rbe_file), "The", "--max-tokens", "2", "--quiet")
    packages = {name.partition(".")[0] for name in modules}
    assert "tokenizers" in packages
    assert packages.isdisjoint(HEAVY - {"tokenizers"} | {"psutil", "rich", "threadpoolctl"})
    assert modules.isdisjoint(LATER_MODULES)
    assert not {name for name in modules if name.startswith(LATER_FOLDERS)}


def test_help_names_every_verb(start: Start) -> None:
    out, err = start("--help").communicate()
    for verb in VERBS:
        assert f"\n  {verb} " in out
    assert err == ""
