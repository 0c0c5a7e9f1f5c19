"""Instruction sets: which ones there are, and which is used."""

import pytest

from rbe_cli.errors import UsageError
from rbe_cli.runtime import instruction_sets
from rbe_cli.runtime.amx_permission import ask_for_amx
from rbe_cli.runtime.cpu_features import architecture
from rbe_cli.runtime.instruction_sets import (
    VARIABLE,
    InstructionSet,
    available,
    baseline,
    buildable,
    chosen,
)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_any_cpu_of_an_architecture_has_its_last_set(monkeypatch, machine):
    monkeypatch.setattr(instruction_sets, "architecture", lambda: machine)
    monkeypatch.setattr(instruction_sets, "cpu_features", frozenset)
    assert available.__wrapped__() == buildable()[-1:]


def test_an_arm_cpu_uses_what_it_has(monkeypatch):
    monkeypatch.setattr(instruction_sets, "architecture", lambda: "aarch64")
    monkeypatch.setattr(instruction_sets, "cpu_features", lambda: frozenset(["dotprod"]))
    assert available.__wrapped__() == (InstructionSet.neon_dot, InstructionSet.neon)


def test_a_set_of_another_architecture_is_for_linux(monkeypatch):
    other = InstructionSet.avx2 if architecture() == "aarch64" else InstructionSet.neon
    monkeypatch.setattr("sys.platform", "darwin")
    assert baseline(other).system == "linux"
    assert baseline(buildable()[0]).system == "darwin"


def test_the_fastest_set_is_chosen_unless_the_environment_names_another(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert chosen() is available()[0]
    monkeypatch.setenv(VARIABLE, available()[-1].value)
    assert chosen() is available()[-1]


def test_a_set_that_this_cpu_lacks_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "avx512")
    monkeypatch.setattr(instruction_sets, "available", lambda: (InstructionSet.portable,))
    with pytest.raises(UsageError, match="'avx512', and this CPU has portable"):
        chosen()


def test_code_is_compiled_for_named_levels_whatever_the_host():
    sets = buildable("x86_64") + buildable("aarch64")
    levels = {own.value: baseline(own)[1:3] for own in sets}
    levels.pop("portable", None)  # the last of the host's, unless that is an Arm CPU
    assert levels == {
        "amx": ("x86-64-v4", "+avx512vnni,+amx-tile,+amx-int8"),
        "avx512": ("x86-64-v4", "+avx512vnni"),
        "avxvnni": ("x86-64-v3", "+avxvnni"),
        "avx2": ("x86-64-v3", ""),
        "neon_dot": ("generic", "+dotprod"),
        "neon": ("generic", ""),
    }
    if architecture() == "x86_64":
        assert baseline(InstructionSet.portable)[1:3] == ("x86-64-v2", "")


@pytest.mark.parametrize("permitted", [False, True])
def test_matrices_are_multiplied_only_where_the_system_permits_it(monkeypatch, permitted):
    features = baseline(InstructionSet.amx).needed
    monkeypatch.setattr(instruction_sets, "architecture", lambda: "x86_64")
    monkeypatch.setattr(instruction_sets, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(instruction_sets, "ask_for_amx", lambda: permitted)
    assert (InstructionSet.amx in available.__wrapped__()) == permitted
    assert InstructionSet.avx512 in available.__wrapped__()


def test_a_cpu_without_matrices_is_not_asked_for_them(monkeypatch):
    features = baseline(InstructionSet.avx512).needed
    monkeypatch.setattr(instruction_sets, "architecture", lambda: "x86_64")
    monkeypatch.setattr(instruction_sets, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(instruction_sets, "ask_for_amx", lambda: pytest.fail("was asked"))
    assert available.__wrapped__()[0] is InstructionSet.avx512


def test_other_systems_are_not_asked_for_matrices(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    assert not ask_for_amx()
