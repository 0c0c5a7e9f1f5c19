"""What `rbe_cli` exports, and what importing it costs."""

import subprocess
import sys

import pytest
from deadlines import run_python

import rbe_cli

HEAVY = {"numpy", "numba", "msgspec", "tokenizers", "typer", "rich", "psutil", "safetensors"}


def test_importing_the_package_imports_none_of_its_parts() -> None:
    done = run_python("import sys, rbe_cli; print(*sys.modules)", check=True)
    names = done.stdout.split()
    assert "rbe_cli" in names
    assert not [name for name in names if name.startswith("rbe_cli.")]
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in names)


def test_importing_the_package_takes_less_than_30_milliseconds() -> None:
    took = []
    for _ in range(3):  # the fastest counts: the machine may be busy
        command = [sys.executable, "-X", "importtime", "-c", "import rbe_cli"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        (line,) = [line for line in done.stderr.splitlines() if line.endswith("| rbe_cli")]
        took.append(int(line.split("|")[1]))  # microseconds, with all that it imports
    assert min(took) < 30_000


@pytest.mark.parametrize("name", rbe_cli.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(rbe_cli, name) is not None
    assert name in dir(rbe_cli)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'decompres'"):
        getattr(rbe_cli, "decompres")  # noqa: B009 - mypy knows that it is not there


def test_the_errors_are_one_tree() -> None:
    for name in rbe_cli.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(rbe_cli, name), rbe_cli.RbeError)
