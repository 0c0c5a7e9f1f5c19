"""The features of a CPU: what Linux, macOS and LLVM tell."""

import platform

import pytest

from rbe_cli.runtime import cpu_features
from rbe_cli.runtime.cpu_features import (
    architecture,
    darwin_arm_features,
    linux_arm_features,
    linux_x86_features,
    llvm_features,
)
from rbe_cli.runtime.instruction_sets import InstructionSet, baseline, ships_objects


@pytest.mark.skipif(not ships_objects(), reason="the features are LLVM's own there")
def test_linux_and_llvm_agree():
    needed = {name for own in InstructionSet for name in baseline(own).needed}
    assert cpu_features.cpu_features() & needed == llvm_features() & needed


def test_features_have_llvm_s_names(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu bmi1 abm avx2 avx512_vnni\n\nprocessor: 1\n")
    assert linux_x86_features(cpuinfo) == {"fpu", "bmi", "lzcnt", "avx2", "avx512vnni"}


@pytest.mark.parametrize("text", [None, "", "processor : 0\n"])
def test_features_that_are_not_told_are_not_used(tmp_path, text):
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    assert linux_x86_features(cpuinfo) == frozenset()


def test_arm_features_are_bits_of_linux():
    assert linux_arm_features(0x8FB) == frozenset()  # Cortex-A72
    assert linux_arm_features(0x119FFF) == {"dotprod"}  # Neoverse N1


def test_apple_cpus_are_asked_by_name():
    told = {"hw.optional.arm.FEAT_DotProd": 1}
    assert darwin_arm_features(lambda key: told.get(key, 0)) == {"dotprod"}
    assert darwin_arm_features(lambda key: 0) == frozenset()


def test_macos_and_linux_on_arm_are_asked_without_llvm(monkeypatch):
    monkeypatch.setattr(cpu_features, "architecture", lambda: "aarch64")
    monkeypatch.setattr(cpu_features, "llvm_features", pytest.fail)
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(cpu_features, "_system_value", lambda key: 1)
    assert cpu_features.cpu_features() == {"dotprod"}
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(cpu_features, "_hardware_bits", lambda: 1 << 20)
    assert cpu_features.cpu_features() == {"dotprod"}


@pytest.mark.skipif(not ships_objects(), reason="Linux alone gives these bits")
def test_linux_gives_every_process_some_bits():
    assert cpu_features._hardware_bits() > 0


@pytest.mark.parametrize(
    ("machine", "name"),
    [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("arm64", "aarch64"), ("aarch64", "aarch64")],
)
def test_an_architecture_has_one_name(monkeypatch, machine, name):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert architecture() == name
