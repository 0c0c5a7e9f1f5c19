"""What `rbe_cli` exports, and what importing it costs."""

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
    script = (
        "import time; start = time.process_time(); import rbe_cli; "
        "print(1000 * (time.process_time() - start))"
    )
    took = min(float(run_python(script, check=True).stdout) for _ in range(3))
    assert took < 30  # milliseconds of the processor, whatever else the machine does


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
