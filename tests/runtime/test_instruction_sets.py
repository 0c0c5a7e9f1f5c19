"""Instruction sets: what Linux and LLVM tell of a CPU."""

import platform

import pytest

from rbe_cli.errors import UsageError
from rbe_cli.runtime import instruction_sets
from rbe_cli.runtime.instruction_sets import (
    VARIABLE,
    InstructionSet,
    architecture,
    available,
    baseline,
    buildable,
    chosen,
    linux_cpu_features,
    ships_objects,
)


@pytest.mark.skipif(not ships_objects(), reason="the features are LLVM's own there")
def test_linux_and_llvm_agree():
    needed = {name for names in instruction_sets._NEEDED.values() for name in names}
    assert linux_cpu_features() & needed == instruction_sets._llvm_cpu_features() & needed


def test_features_have_llvm_s_names(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu bmi1 abm avx2 avx512_vnni\n\nprocessor: 1\n")
    assert linux_cpu_features(cpuinfo) == {"fpu", "bmi", "lzcnt", "avx2", "avx512vnni"}


@pytest.mark.parametrize("text", [None, "", "processor : 0\n"])
def test_features_that_are_not_told_are_not_used(tmp_path, text):
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    assert linux_cpu_features(cpuinfo) == frozenset()


@pytest.mark.parametrize(
    ("machine", "name"),
    [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("arm64", "arm64"), ("aarch64", "aarch64")],
)
def test_an_architecture_has_one_name(monkeypatch, machine, name):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert architecture() == name


def test_the_fastest_set_is_chosen_unless_the_environment_names_another(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert chosen() is available()[0]
    monkeypatch.setenv(VARIABLE, "portable")
    assert chosen() is InstructionSet.portable


def test_a_set_that_this_cpu_lacks_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "avx512")
    monkeypatch.setattr(instruction_sets, "available", lambda: (InstructionSet.portable,))
    with pytest.raises(UsageError, match="'avx512', and this CPU has portable"):
        chosen()


@pytest.mark.skipif(architecture() != "x86_64", reason="another architecture has one set")
def test_code_is_compiled_for_named_levels_whatever_the_host():
    levels = {own.value: baseline(own)[:2] for own in buildable()}
    assert levels == {
        "avx512": ("x86-64-v4", "+avx512vnni"),
        "avxvnni": ("x86-64-v3", "+avxvnni"),
        "avx2": ("x86-64-v3", ""),
        "portable": ("x86-64-v2", ""),
    }
