"""Count the threads that are worth starting on this machine, for this process."""

import math
import os
from contextlib import suppress
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")  # of Linux
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def affine_cpus() -> int:
    """Return the number of CPUs that this process may be scheduled on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Return the physical cores within the process's CPU affinity and its cgroup's CPU quota."""
    physical = physical_cores() or affine_cpus()
    return max(1, math.floor(min(physical, affine_cpus(), cgroup_cpus())))


def physical_cores(root: Path = _CPUS) -> int | None:
    """Return the number of the machine's cores; None if it is not known."""
    with suppress(OSError):  # a CPU that has just gone
        cores = {file.read_bytes() for file in root.glob("cpu[0-9]*/topology/core_cpus_list")}
        if cores:
            return len(cores)
    import psutil  # 8 ms of each start where it is not needed

    found: int | None = psutil.cpu_count(logical=False)
    return found


def cgroup_cpus(root: Path = _CGROUP_ROOT, membership: Path = Path("/proc/self/cgroup")) -> float:
    """Return the CPU time per wall time that the process's cgroup grants; infinity for no limit.

    Reads version 2 (`cpu.max` of the group and of those it lies in) and, in a container of
    version 1, the quota of its root group.
    """
    quotas = [_quota_v2(group / "cpu.max") for group in _own_groups(root, membership)]
    return min([*quotas, _quota_v1(root / "cpu")])


def _own_groups(root: Path, membership: Path) -> list[Path]:
    """Return the process's version-2 group and its ancestors up to `root`."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return [root]
    for line in lines:
        if line.startswith("0::/"):
            group = root / line.removeprefix("0::/")
            return [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
    return [root]


def _quota_v2(path: Path) -> float:
    """Return the quota in `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD`."""
    try:
        quota, period = path.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def _quota_v1(group: Path) -> float:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf
    return quota / period if quota > 0 else math.inf
