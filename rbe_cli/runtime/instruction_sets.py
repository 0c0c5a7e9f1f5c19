"""Choose the instructions that programs are compiled for, once, from the CPU's features.

An instruction the CPU lacks ends the process, so a program runs only where the CPU has all
features of its baseline. The baselines are the levels of the x86-64 ABI: machine code does not
depend on the machine that compiled it.
"""

import os
import platform
import sys
from enum import Enum
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rbe_cli.errors import UsageError

VARIABLE = "RBE_INSTRUCTIONS"


class InstructionSet(Enum):
    """Say how products of bytes are computed.

    `avx512` and `avxvnni` with VNNI's dot products of four bytes, in registers of 64 bytes
    (x86-64 from 2019 on) or of 32 (from 2021 on); `avx2` with sums of two products (from 2013 on);
    `portable` with what any CPU has.
    """

    avx512 = "avx512"
    avxvnni = "avxvnni"
    avx2 = "avx2"
    portable = "portable"


class Baseline(NamedTuple):
    """Describe what LLVM compiles for.

    Attributes:
        cpu: a CPU's name.
        features: those beside that CPU's own.
        has_fused_and_half: whether it has fused multiply-adds and conversions of float16.
    """

    cpu: str
    features: str = ""
    has_fused_and_half: bool = True


# By Linux's names.
_LLVM_NAMES = {"bmi1": "bmi", "abm": "lzcnt", "avx512_vnni": "avx512vnni", "avx_vnni": "avxvnni"}
_V3 = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_NEEDED: dict[InstructionSet, tuple[str, ...]] = {
    InstructionSet.avx512: (*_V3, *_V4, "avx512vnni"),
    InstructionSet.avxvnni: (*_V3, "avxvnni"),
    InstructionSet.avx2: _V3,
    InstructionSet.portable: (),
}


def architecture() -> str:
    """Return the name of this process's architecture, such as `x86_64` or `arm64`."""
    name = platform.machine().lower()
    if name in ("x86_64", "amd64"):
        return "x86_64" if sys.maxsize > 2**32 else "x86"
    return name


def ships_objects() -> bool:
    """Return whether the package comes with object files for this platform."""
    return sys.platform == "linux" and architecture() == "x86_64"


def baseline(instructions: InstructionSet) -> Baseline:
    """Return what an instruction set is compiled for on this architecture."""
    if architecture() != "x86_64":
        return Baseline("generic")
    return {
        InstructionSet.avx512: Baseline("x86-64-v4", "+avx512vnni"),
        InstructionSet.avxvnni: Baseline("x86-64-v3", "+avxvnni"),
        InstructionSet.avx2: Baseline("x86-64-v3"),
        InstructionSet.portable: Baseline("x86-64-v2", has_fused_and_half=False),
    }[instructions]


def buildable() -> tuple[InstructionSet, ...]:
    """Return the instruction sets that this architecture has, the fastest first."""
    return tuple(InstructionSet) if architecture() == "x86_64" else (InstructionSet.portable,)


@cache
def available() -> tuple[InstructionSet, ...]:
    """Return the instruction sets that this CPU has, the fastest first."""
    features = linux_cpu_features() if ships_objects() else _llvm_cpu_features()
    return tuple(choice for choice, needed in _NEEDED.items() if features.issuperset(needed))


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


def linux_cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the features of an x86-64 CPU that the system lets programs use, by LLVM's names.

    The list is empty where Linux does not tell.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, names = line.partition(":")
        if key.strip() == "flags":
            return frozenset(_LLVM_NAMES.get(name, name) for name in names.split())
    return frozenset()


def _llvm_cpu_features() -> frozenset[str]:
    from llvmlite import binding

    return frozenset(name for name, found in binding.get_host_cpu_features().items() if found)
