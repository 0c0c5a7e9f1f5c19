"""Let calls of the C library fail, with the library that faulty_libc.c makes; it needs gcc."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

from faults.faulty_system import KILL, SHORT, Call

_KINDS = {
    **{"o": "open", "r": "read", "w": "write", "c": "close", "s": "fsync", "t": "ftruncate"},
    **{"n": "rename", "l": "link", "u": "unlink", "m": "mkdir", "d": "rmdir", "p": "mmap"},
}
_SOURCE = Path(__file__).with_name("faulty_libc.c")


def run_with_libc_faults(home: Path) -> int:
    """Run this program again, with the library loaded before the C library; return its code."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SystemExit("faults of the C library need gcc")
    library = home / "faulty_libc.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", library, _SOURCE, "-ldl"]
    subprocess.run(command, check=True)
    environment = os.environ | {"LD_PRELOAD": str(library)}
    again = [sys.executable, "-m", "faults", *sys.argv[1:]]
    return subprocess.run(again, env=environment, check=False).returncode


def is_loaded() -> bool:
    """Return whether the library is loaded."""
    return hasattr(ctypes.CDLL(None), "fault_calls")


class LibcFaults:
    """The C library of this process, with a fault in one call on files of a folder."""

    def __init__(self, folder: Path, number: int | None, fault: str) -> None:
        """Begin.

        Args:
            folder: only calls on files below it count.
            number: of the call that fails, from 0; None if none does.
            fault: as of `FaultySystem`.
        """
        self._library = ctypes.CDLL(None)
        codes = {KILL: -1, SHORT: 0}
        code = codes[fault] if fault in codes else getattr(errno, fault)
        ctypes.c_int.in_dll(self._library, "fault_error").value = code
        ctypes.c_long.in_dll(self._library, "fault_calls").value = 0
        ctypes.c_long.in_dll(self._library, "fault_at").value = -1 if number is None else number
        self._folder = (ctypes.c_char * 4096).in_dll(self._library, "fault_folder")
        self._folder.value = os.fsencode(folder)

    def end(self) -> list[Call]:
        """Stop; return the calls that were made."""
        self._folder.value = b""
        count = ctypes.c_long.in_dll(self._library, "fault_calls").value
        letters = (ctypes.c_char * count).in_dll(self._library, "fault_log").raw.decode()
        return [Call(_KINDS[letter], ("?",)) for letter in letters]
