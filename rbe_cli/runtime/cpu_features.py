"""Tell which features of its CPU the system lets programs use, by LLVM's names.

Linux and macOS tell it themselves, without LLVM, whose import takes a tenth of a second.
"""

import ctypes
import platform
import sys
from collections.abc import Callable
from pathlib import Path

_X86_NAMES = {  # by Linux's names
    "bmi1": "bmi", "abm": "lzcnt", "avx512_vnni": "avx512vnni", "avx_vnni": "avxvnni",
    "amx_tile": "amx-tile", "amx_int8": "amx-int8",
}  # fmt: skip
_ARM_BITS = {20: "dotprod"}  # by the bits of AT_HWCAP (Linux, arch/arm64, asm/hwcap.h)
_AT_HWCAP = 16
_DARWIN_NAMES = {"hw.optional.arm.FEAT_DotProd": "dotprod"}  # by the names of sysctl


def architecture() -> str:
    """Return the name of this process's architecture: `x86_64`, `aarch64`, or another."""
    name = platform.machine().lower()
    if name in ("x86_64", "amd64"):
        return "x86_64" if sys.maxsize > 2**32 else "x86"
    return "aarch64" if name == "arm64" else name


def cpu_features() -> frozenset[str]:
    """Return the features of this CPU; those of unusual systems are left out without LLVM."""
    known: dict[tuple[str, str], Callable[[], frozenset[str]]] = {
        ("linux", "x86_64"): linux_x86_features,
        ("linux", "aarch64"): lambda: linux_arm_features(_hardware_bits()),
        ("darwin", "aarch64"): lambda: darwin_arm_features(_system_value),
    }
    return known.get((sys.platform, architecture()), llvm_features)()


def linux_x86_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the features of an x86-64 CPU; none where Linux does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, names = line.partition(":")
        if key.strip() == "flags":
            return frozenset(_X86_NAMES.get(name, name) for name in names.split())
    return frozenset()


def linux_arm_features(hardware_bits: int) -> frozenset[str]:
    """Return the features of a 64-bit Arm CPU, by the bits of AT_HWCAP."""
    return frozenset(name for bit, name in _ARM_BITS.items() if hardware_bits >> bit & 1)


def darwin_arm_features(system_value: Callable[[str], int]) -> frozenset[str]:
    """Return the features of an Apple CPU, by what sysctl tells."""
    return frozenset(name for key, name in _DARWIN_NAMES.items() if system_value(key))


def llvm_features() -> frozenset[str]:
    """Return what LLVM finds out."""
    from llvmlite import binding

    return frozenset(name for name, found in binding.get_host_cpu_features().items() if found)


def _hardware_bits() -> int:
    """Return AT_HWCAP, which Linux gives every process."""
    read = ctypes.CDLL(None).getauxval
    read.argtypes, read.restype = (ctypes.c_ulong,), ctypes.c_ulong
    bits: int = read(_AT_HWCAP)
    return bits


def _system_value(key: str) -> int:
    """Return a number of macOS's sysctl; 0 where it has none of this name."""
    value = ctypes.c_int(0)
    size = ctypes.c_size_t(ctypes.sizeof(value))
    ctypes.CDLL(None).sysctlbyname(
        key.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return value.value
