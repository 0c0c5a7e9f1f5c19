import math
import os

import psutil
import pytest

from rbe_cli.runtime.cpus import affine_cpus, cgroup_cpus, default_threads, physical_cores


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_default_is_within_the_affinity():
    assert 1 <= default_threads() <= affine_cpus() <= os.cpu_count()


def test_affinity_lowers_the_default(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5}, raising=False)
    assert default_threads() == 1


def test_without_any_cgroup_there_is_no_limit(tmp_path):
    assert cgroup_cpus(tmp_path / "none", tmp_path / "missing") == math.inf


@pytest.mark.parametrize(
    ("text", "cpus"), [("max 100000\n", math.inf), ("150000 100000\n", 1.5), ("damaged", math.inf)]
)
def test_version_2_quota_of_the_root(tmp_path, text, cpus):
    write(tmp_path / "fs/cpu.max", text)
    assert cgroup_cpus(tmp_path / "fs", tmp_path / "missing") == cpus


def test_the_strictest_of_a_group_and_its_ancestors_counts(tmp_path):
    write(tmp_path / "fs/a/cpu.max", "200000 100000")
    write(tmp_path / "fs/a/b/cpu.max", "max 100000")
    write(tmp_path / "membership", "1:name=systemd:/ignored\n0::/a/b\n")
    assert cgroup_cpus(tmp_path / "fs", tmp_path / "membership") == 2.0


@pytest.mark.parametrize(("quota", "cpus"), [("-1", math.inf), ("300000", 3.0)])
def test_version_1_quota(tmp_path, quota, cpus):
    write(tmp_path / "cpu/cpu.cfs_quota_us", quota)
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000")
    assert cgroup_cpus(tmp_path, tmp_path / "missing") == cpus


def test_a_fraction_of_a_cpu_is_one_thread(monkeypatch):
    monkeypatch.setattr("rbe_cli.runtime.cpus.cgroup_cpus", lambda: 0.5)
    assert default_threads() == 1


def test_cpus_that_share_a_core_count_once(tmp_path):
    for cpu, core in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        write(tmp_path / f"cpu{cpu}/topology/core_cpus_list", f"{core}\n")
    assert physical_cores(tmp_path) == 2


def test_cores_are_counted_otherwise_where_the_system_does_not_name_them(tmp_path):
    assert physical_cores(tmp_path) == psutil.cpu_count(logical=False) == physical_cores()
