"""Describe the machine that a measurement was made on."""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from rbe_cli.runtime.cpus import affine_cpus

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """Describe the hardware and software behind a timing, but nothing that identifies the machine.

    Attributes:
        cpu: the processor's model.
        physical_cores: cores of the machine; None if the system does not tell.
        logical_cores: CPUs that this process may use.
        threads: threads that the fused kernels run on; None if they were not used.
        gpu: name of the GPU that computed; None for the CPU.
        memory_bytes: memory of the machine.
        platform: operating system and instruction set.
        python, numpy: versions.
        numba: its version; None where it is not installed.
    """

    cpu: str
    physical_cores: int | None
    logical_cores: int
    threads: int | None
    gpu: str | None
    memory_bytes: int
    platform: str
    python: str
    numpy: str
    numba: str | None


def this_machine(threads: int | None, gpu: str | None = None) -> Machine:
    """Describe the machine this runs on; arguments as of `Machine`."""
    return Machine(
        cpu=cpu_model(),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=affine_cpus(),
        threads=threads,
        gpu=gpu,
        memory_bytes=psutil.virtual_memory().total,
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        numpy=version("numpy"),
        numba=_installed("numba"),
    )


def _installed(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model(cpuinfo: Path = _CPUINFO) -> str:
    """Return the processor's name as Linux gives it, or what Python knows elsewhere."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, name = line.partition(":")
        if key.strip() == "model name":
            return name.strip()
    return platform.processor() or platform.machine()
