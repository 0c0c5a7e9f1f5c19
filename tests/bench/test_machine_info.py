import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil
import pytest

from rbe_cli.bench.machine_info import cpu_model, this_machine
from rbe_cli.runtime.cpus import affine_cpus


def test_a_machine_is_described() -> None:
    machine = this_machine(threads=3)
    assert machine.threads == 3
    assert machine.numpy == np.__version__
    assert machine.numba == version("numba")
    assert machine.python == ".".join(str(part) for part in sys.version_info[:3])
    assert machine.logical_cores == affine_cpus()
    assert machine.physical_cores == psutil.cpu_count(logical=False)
    assert machine.cpu == cpu_model()
    assert machine.platform == f"{platform.system()} {platform.machine()}"


def test_a_machine_needs_no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        if name == "numba":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("rbe_cli.bench.machine_info.version", missing)
    assert this_machine(threads=1).numba is None


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="Windows has no sysconf")
def test_the_memory_is_the_machine_s() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert this_machine(threads=None).memory_bytes == pytest.approx(memory, rel=0.01)


def test_kernels_that_were_not_used_have_no_threads() -> None:
    assert this_machine(threads=None).threads is None


def test_the_processor_is_named_by_linux(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: Quick CPU: mark 2\n")
    assert cpu_model(cpuinfo) == "Quick CPU: mark 2"


@pytest.mark.parametrize(
    ("processor", "machine", "name"),
    [("Intel64 Family 6", "AMD64", "Intel64 Family 6"), ("", "arm64", "arm64")],
)
def test_the_processor_has_a_name_without_linux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str, machine: str, name: str
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert cpu_model(tmp_path / "missing") == name
