"""Which instructions the kernels are written in: the choice, made once, from the CPU's features.

An instruction the CPU lacks ends the process, so nothing is compiled for more than it has.
"""

from enum import Enum
from functools import cache

from llvmlite import binding


class InstructionSet(Enum):
    """How products of bytes are computed.

    `avx512` with VNNI's dot products of four bytes (x86-64 from 2019 on); `avx2` with products
    of pairs of 16-bit integers; `portable` with what any CPU has.
    """

    avx512 = "avx512"
    avx2 = "avx2"
    portable = "portable"


_NEEDED = {
    InstructionSet.avx512: ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "fma", "f16c"),
    InstructionSet.avx2: ("avx2", "fma", "f16c"),
    InstructionSet.portable: (),
}


@cache
def available() -> tuple[InstructionSet, ...]:
    """Those this CPU has, the fastest first."""
    features = binding.get_host_cpu_features()
    return tuple(
        choice
        for choice, needed in _NEEDED.items()
        if all(features.get(feature, False) for feature in needed)
    )
