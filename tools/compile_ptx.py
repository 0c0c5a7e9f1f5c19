"""Compile every kernel for CUDA to PTX, without a GPU, and tell what it takes (`make ptx`).

It needs numba-cuda and NVIDIA's libraries nvvm and nvrtc (the extra `ptx`). Where `ptxas` is at
hand, it compiles the PTX on, and tells the registers of a thread, the bytes that are spilled from
them, and the shared memory of a block. A kernel that does not compile ends it with 1.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from numba import cuda

from rbe_cli.cuda.kernel import Kernel
from rbe_cli.cuda.kernel_modules import all_kernels

CAPABILITIES = ((8, 0), (9, 0))
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def main() -> int:
    """Compile all kernels and print a line for each; return the exit code."""
    ptxas = _ptxas()
    failed = 0
    print(_line("kernel", "form", "sm", "PTX", "registers", "spilled", "shared"))
    for own in all_kernels().values():
        for form, signature in enumerate(own.signatures):
            for capability in CAPABILITIES:
                try:
                    print(_row(own, form, signature, capability, ptxas), flush=True)
                except Exception as error:
                    failed += 1
                    print(f"{own.name} {form} {capability}: {error}", file=sys.stderr)
    if ptxas is None:
        print("ptxas is not at hand: registers and spills are not known")
    return 1 if failed else 0


def _row(
    own: Kernel, form: int, signature: str, capability: tuple[int, int], ptxas: str | None
) -> str:
    """Compile one form of a kernel for one capability; return its line."""
    ptx, _ = cuda.compile_ptx(own.function, signature, cc=capability)
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
    sys.exit(main())
