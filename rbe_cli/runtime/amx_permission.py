"""Ask Linux for the registers of matrices (AMX), which a process has only if it asked.

A thread that uses them has 8 kB more state to save, so the system must know that a process copes
with that (Linux kernel documentation, x86/xstate: Using XSTATE features in user space
applications). The permission holds for all threads, and is kept until the process ends.
"""

import ctypes
import platform
import sys

_ARCH_PRCTL, _ASK_FOR_STATE, _REGISTERS_OF_MATRICES = 158, 0x1023, 18


def ask_for_amx() -> bool:
    """Return whether this process may use the registers from now on."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    system_call = ctypes.CDLL(None).syscall
    system_call.argtypes = [ctypes.c_long] * 3
    system_call.restype = ctypes.c_long
    return bool(system_call(_ARCH_PRCTL, _ASK_FOR_STATE, _REGISTERS_OF_MATRICES) == 0)
