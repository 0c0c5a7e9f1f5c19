from pathlib import Path

import numpy as np

from rbe_cli.bench.machine import cpu_model, this_machine


def test_a_machine_is_described() -> None:
    machine = this_machine(threads=3)
    assert machine.threads == 3
    assert machine.numpy == np.__version__
    assert machine.python.startswith("3.")
    assert machine.logical_cores >= 1
    assert machine.memory_bytes > 1 << 20
    assert machine.cpu


def test_the_processor_is_named_by_linux(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel\t\t: 17\nmodel name\t: Quick CPU: mark 2\n")
    assert cpu_model(cpuinfo) == "Quick CPU: mark 2"


def test_the_processor_has_a_name_without_linux(tmp_path: Path) -> None:
    assert cpu_model(tmp_path / "missing") != ""
