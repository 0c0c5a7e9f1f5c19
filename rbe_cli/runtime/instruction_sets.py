"""Choose the instructions that programs are compiled for, once, from the CPU's features.

An instruction the CPU lacks ends the process, so a program runs only where the CPU has all
features of its baseline. The baselines are named by LLVM, as the levels of the x86-64 ABI are:
machine code does not depend on the machine that compiled it.
"""

import os
import sys
from enum import Enum
from functools import cache
from typing import NamedTuple

from rbe_cli.errors import UsageError
from rbe_cli.runtime.amx_permission import ask_for_amx
from rbe_cli.runtime.cpu_features import architecture, cpu_features

VARIABLE = "RBE_INSTRUCTIONS"


class InstructionSet(Enum):
    """Say how products of bytes are computed; an architecture's fastest comes first.

    `amx` with products of matrices for many tokens, else as `avx512` (servers from 2023 on);
    `avx512` and `avxvnni` with VNNI's dot products of four bytes, in registers of 64 bytes
    (x86-64 from 2019 on) or of 32 (from 2021 on); `avx2` with sums of two products (from 2013 on);
    `neon_dot` with dot products of four bytes (64-bit Arm from 2018 on), `neon` with products of
    16-bit integers (any 64-bit Arm); `portable` with what any other CPU has.
    """

    amx = "amx"
    avx512 = "avx512"
    avxvnni = "avxvnni"
    avx2 = "avx2"
    neon_dot = "neon_dot"
    neon = "neon"
    portable = "portable"


class Baseline(NamedTuple):
    """Describe what LLVM compiles for.

    Attributes:
        architecture: its name (`cpu_features.architecture`).
        cpu: a CPU's name.
        features: those beside that CPU's own.
        needed: features that a CPU must have to run the code, by LLVM's names.
        has_fused_and_half: whether it has fused multiply-adds and conversions of float16.
    """

    architecture: str
    cpu: str
    features: str = ""
    needed: tuple[str, ...] = ()
    has_fused_and_half: bool = True

    @property
    def system(self) -> str:
        """Return the system that the code runs on: this one, or Linux on other architectures."""
        return sys.platform if self.architecture == architecture() else "linux"


_V3 = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_X86, _ARM = "x86_64", "aarch64"
_VNNI = (*_V3, *_V4, "avx512vnni")
_BASELINES = {
    InstructionSet.amx: Baseline(
        _X86, "x86-64-v4", "+avx512vnni,+amx-tile,+amx-int8", (*_VNNI, "amx-tile", "amx-int8")
    ),
    InstructionSet.avx512: Baseline(_X86, "x86-64-v4", "+avx512vnni", _VNNI),
    InstructionSet.avxvnni: Baseline(_X86, "x86-64-v3", "+avxvnni", needed=(*_V3, "avxvnni")),
    InstructionSet.avx2: Baseline(_X86, "x86-64-v3", needed=_V3),
    InstructionSet.neon_dot: Baseline(_ARM, "generic", "+dotprod", needed=("dotprod",)),
    InstructionSet.neon: Baseline(_ARM, "generic"),
}


def baseline(instructions: InstructionSet) -> Baseline:
    """Return what an instruction set is compiled for."""
    if own := _BASELINES.get(instructions):
        return own
    machine = architecture()
    cpu = "x86-64-v2" if machine == _X86 else "generic"
    return Baseline(machine, cpu, has_fused_and_half=False)


def buildable(machine: str | None = None) -> tuple[InstructionSet, ...]:
    """Return an architecture's instruction sets, the fastest first; None for this machine's."""
    machine = machine or architecture()
    found = (choice for choice in InstructionSet if baseline(choice).architecture == machine)
    # What any CPU has is in another set of 64-bit Arm.
    return tuple(own for own in found if own is not InstructionSet.portable or machine != _ARM)


def ships_objects() -> bool:
    """Return whether object files for this platform can come with the package."""
    return sys.platform == "linux" and architecture() in (_X86, _ARM)


@cache
def available() -> tuple[InstructionSet, ...]:
    """Return the instruction sets that this CPU has, the fastest first.

    `amx` is among them if the system lets this process use it.
    """
    features = cpu_features()
    found = [own for own in buildable() if features.issuperset(baseline(own).needed)]
    return tuple(own for own in found if own is not InstructionSet.amx or ask_for_amx())


def chosen() -> InstructionSet:
    """Return the instruction set to use: the fastest, or the one that `RBE_INSTRUCTIONS` names.

    Raises:
        UsageError: the variable names none that this CPU has.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return available()[0]
    names = [choice.value for choice in available()]
    if name not in names:
        raise UsageError(f"{VARIABLE} is {name!r}, and this CPU has {', '.join(names)}")
    return InstructionSet(name)
