"""Turns what was asked for into a rate, and into tensors that are stored exactly.

Lossy coding is of use up to `MAX_BITS` bits a weight: there the divergence is that of rounding
in float32, and the range of its integers is used up. A larger size is spent on tensors that are
stored exactly, in float16 where every value fits and in float32 otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.compression.output_file import OutputFile
from rbe_cli.compression.rate_control import GOOD_ENOUGH
from rbe_cli.compression.settings import MAX_BITS, MIN_BPW, Settings
from rbe_cli.compression.tensor_plan import TensorPlan, free_rate, with_exact
from rbe_cli.container.file_size import TensorSize
from rbe_cli.errors import UsageError

KL_A_BIT = 4.4  # by what a bit a weight divides the KL divergence
_KL_AT_FOUR_BITS = 0.004  # of a middling model


@dataclass(frozen=True)
class Target:
    """What a compression is to reach.

    Attributes:
        plans: of all tensors, with those that are stored exactly.
        bits_per_weight: of the file; a first guess for a KL divergence.
        matrix_bits: about the bits a weight of the matrices without a rate of their own.
        overhead_bytes: about the bytes of the file beside its tensors, padding included.
        most: bits a weight of the file that must not be exceeded; infinite without such a limit.
    """

    plans: list[TensorPlan]
    bits_per_weight: float
    matrix_bits: float
    overhead_bytes: int
    most: float = math.inf


def find_target(
    plans: list[TensorPlan],
    tensors: Mapping[str, NDArray[np.float32]],
    settings: Settings,
    file: OutputFile,
) -> Target:
    """Find the rate and the exact tensors that meet the target of the settings.

    A file that holds every tensor exactly is the best there is; a larger target is met by it.
    Otherwise a target beyond `MAX_BITS` keeps one matrix after another exactly, the smallest
    first, as far as they fit beside the others at `MAX_BITS`.

    Args:
        plans: of all tensors, by the settings.
        tensors: of the checkpoint.
        settings: hold the target.
        file: that is to come.

    Raises:
        UsageError: the target is too small.
    """
    wanted, most = _wanted(settings, file)
    overhead = _overhead(planned_sizes(plans, MIN_BPW), file)
    rate = free_rate(plans, wanted, file.bits_per_weight(overhead))
    free = [plan for plan in plans if plan.is_matrix and plan.is_free]
    if rate <= MAX_BITS or not free or settings.target_kl is not None:
        return Target(plans, wanted, rate, overhead, most)
    # First all tensors; then all matrices, and ever fewer of them.
    chosen = with_exact(plans, tensors)
    kept = sorted(free, key=lambda plan: -plan.size)
    limit = wanted if most == math.inf else most
    while (size := _size(chosen, file)) > limit and kept:
        chosen, limit = with_exact(plans, tensors, {plan.name for plan in kept}), wanted
        kept = kept[1:]
    overhead = _overhead(planned_sizes(chosen, MAX_BITS), file)
    return Target(chosen, min(size, limit), MAX_BITS, overhead, most)


def planned_sizes(plans: Sequence[TensorPlan], rate: float) -> list[TensorSize]:
    """Return about the sizes of all tensors in a file whose free matrices have `rate`."""
    return [TensorSize(own.name, own.codec.name, own.expected_bytes(rate)) for own in plans]


def _wanted(settings: Settings, file: OutputFile) -> tuple[float, float]:
    """Return the bits a weight to aim at, and those that must not be exceeded."""
    if settings.target_size is not None:
        most = file.bits_per_weight(settings.target_size)
        bits = (1 - GOOD_ENOUGH) * most  # sizes are met within half a per cent
        if bits < MIN_BPW:
            raise UsageError(
                f"{settings.target_size} bytes are less than {MIN_BPW} bit a weight: too few"
            )
        return bits, most
    if settings.target_kl is not None:
        bits = 4 + math.log(_KL_AT_FOUR_BITS / settings.target_kl, KL_A_BIT)
        return min(max(bits, 1.5), 8.0), math.inf
    return settings.target_bpw or settings.default_bits or MIN_BPW, math.inf


def _overhead(sizes: Sequence[TensorSize], file: OutputFile) -> int:
    """Return the bytes of a file of such tensors beside them."""
    return file.bytes(sizes) - sum(own.bytes for own in sizes)


def _size(plans: Sequence[TensorPlan], file: OutputFile) -> float:
    """Return the bits a weight of the file with all free matrices at `MAX_BITS`."""
    return file.bits_per_weight(file.bytes(planned_sizes(plans, MAX_BITS)))
