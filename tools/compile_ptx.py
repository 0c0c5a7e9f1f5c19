"""Compile every kernel for CUDA to PTX, without a GPU, and tell what it takes (`make ptx`).

It needs numba-cuda and NVIDIA's libraries nvvm and nvrtc (the extra `ptx`). Where `ptxas` is at
hand, it compiles the PTX on, and tells the registers of a thread, the bytes that are spilled from
them, and the shared memory of a block. A kernel that does not compile ends it with 1.

Each capability has a process of its own, as numba-cuda compiles a device function once.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numba import cuda

from rbe_cli.cuda.kernel import Kernel
from rbe_cli.cuda.kernel_modules import all_kernels

CAPABILITIES = ((8, 0), (9, 0))
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def main(arguments: list[str]) -> int:
    """Compile all kernels, or those for one capability; return the exit code."""
    if arguments:
        return _compile_all(tuple(map(int, arguments)))
    print(_line("kernel", "form", "sm", "PTX", "registers", "spilled", "shared"), flush=True)
    if _ptxas() is None:
        print("ptxas is not at hand: registers and spills are not known", flush=True)
    command = [sys.executable, "-m", "tools.compile_ptx"]
    codes = [subprocess.call([*command, *map(str, own)]) for own in CAPABILITIES]
    return max(codes)


def _compile_all(capability: tuple[int, ...]) -> int:
    """Print a line for each form of each kernel; return 1 if one does not compile."""
    # numba-cuda asks the GPU what it compiles device functions for; here there is none to ask.
    dispatcher: Any = import_module("numba.cuda.dispatcher")
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    ptxas, failed = _ptxas(), 0
    for own in all_kernels().values():
        for form, signature in enumerate(own.signatures):
            try:
                print(_row(own, form, signature, capability, ptxas), flush=True)
            except Exception as error:
                failed = 1
                print(f"{own.name}, form {form}: {error}", file=sys.stderr)
    return failed


def _row(
    own: Kernel, form: int, signature: str, capability: tuple[int, ...], ptxas: str | None
) -> str:
    """Compile one form of a kernel for one capability; return its line."""
    ptx, _ = cuda.compile_ptx(
        own.function, signature, cc=capability, launch_bounds=own.most_threads
    )
    target = "".join(map(str, capability))
    found = ("-", "-", "-") if ptxas is None else _assembled(ptxas, ptx, target)
    return _line(own.name, form, target, len(ptx), *found)


def _line(name: str, *numbers: object) -> str:
    """Return a line of the table."""
    return f"{name:<36}" + "".join(f"{number:>10}" for number in numbers)


def _assembled(ptxas: str, ptx: str, target: str) -> tuple[int, int, int]:
    """Return registers of a thread, bytes spilled, and bytes of shared memory of fixed size."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        done = subprocess.run(
            [
                ptxas,
                "-v",
                f"-arch=sm_{target}",
                "-o",
                str(source.with_suffix(".cubin")),
                str(source),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    registers = _USED.search(done.stderr)
    if registers is None:
        raise RuntimeError(f"ptxas does not tell the registers: {done.stderr.strip()}")
    spilled = sum(int(a) + int(b) for a, b in _SPILLS.findall(done.stderr))
    shared = _SHARED.search(done.stderr)
    return int(registers[1]), spilled, int(shared[1]) if shared else 0


def _ptxas() -> str | None:
    """Return the path of NVIDIA's assembler: that of its package, or one on the path."""
    own = Path(sysconfig.get_path("purelib")) / "nvidia" / "cuda_nvcc" / "bin" / "ptxas"
    return str(own) if own.exists() else shutil.which("ptxas")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
