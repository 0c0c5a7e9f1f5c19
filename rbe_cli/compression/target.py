"""Convert the target of the settings into a rate and a choice of tensors to store exactly.

Lossy coding is useful up to `MAX_BITS` bits per weight. At that rate the divergence is as small
as that of rounding in float32, and the integers have their largest range. A larger file stores
some tensors exactly instead: in float16 if that holds every value, and in float32 otherwise.
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

KL_PER_BIT = 4.4  # the KL divergence is divided by this for each further bit per weight
_KL_AT_FOUR_BITS = 0.004  # nats per token, of a typical model


@dataclass(frozen=True)
class Target:
    """What a compression has to reach.

    Attributes:
        plans: the plans of all tensors, including those that are stored exactly.
        bits_per_weight: of the file; a first guess if the target is a KL divergence.
        matrix_bits: about the bits per weight of the matrices whose rate is free.
        overhead_bytes: about the bytes of the file that are not tensors, including padding.
        most: the largest bits per weight of the file; infinite without such a limit.
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

    If the target allows it, every tensor is stored exactly. Otherwise, for a target above
    `MAX_BITS`, the smallest matrices are stored exactly, as many as fit, and the others get
    `MAX_BITS`.

    Args:
        plans: the plans of all tensors, made from the settings.
        tensors: the tensors of the checkpoint, float32.
        settings: hold the target.
        file: the file that will be written.

    Raises:
        UsageError: the target is too small.
    """
    wanted, most = _wanted(settings, file)
    overhead = _overhead(planned_sizes(plans, MIN_BPW), file)
    rate = free_rate(plans, wanted, file.bits_per_weight(overhead))
    free = [plan for plan in plans if plan.is_matrix and plan.is_free]
    if rate <= MAX_BITS or not free or settings.target_kl is not None:
        return Target(plans, wanted, rate, overhead, most)
    # Try all tensors first, then all matrices, then fewer and fewer of them.
    chosen = with_exact(plans, tensors)
    kept = sorted(free, key=lambda plan: -plan.size)
    limit = wanted if most == math.inf else most
    while (size := _size(chosen, file)) > limit and kept:
        chosen, limit = with_exact(plans, tensors, {plan.name for plan in kept}), wanted
        kept = kept[1:]
    overhead = _overhead(planned_sizes(chosen, MAX_BITS), file)
    return Target(chosen, min(size, limit), MAX_BITS, overhead, most)


def planned_sizes(plans: Sequence[TensorPlan], rate: float) -> list[TensorSize]:
    """Return about the sizes of all tensors, if the free matrices have `rate` bits per weight."""
    return [TensorSize(own.name, own.codec.name, own.expected_bytes(rate)) for own in plans]


def _wanted(settings: Settings, file: OutputFile) -> tuple[float, float]:
    """Return the bits per weight to aim at, and the largest that are allowed."""
    if settings.target_size is not None:
        most = file.bits_per_weight(settings.target_size)
        bits = (1 - GOOD_ENOUGH) * most  # the search stops this close to the target
        if bits < MIN_BPW:
            raise UsageError(
                f"{settings.target_size} bytes are less than {MIN_BPW} bit a weight: too few"
            )
        return bits, most
    if settings.target_kl is not None:
        bits = 4 + math.log(_KL_AT_FOUR_BITS / settings.target_kl, KL_PER_BIT)
        return min(max(bits, 1.5), 8.0), math.inf
    return settings.target_bpw or settings.default_bits or MIN_BPW, math.inf


def _overhead(sizes: Sequence[TensorSize], file: OutputFile) -> int:
    """Return the bytes of a file with these tensors that are not tensors."""
    return file.bytes(sizes) - sum(own.bytes for own in sizes)


def _size(plans: Sequence[TensorPlan], file: OutputFile) -> float:
    """Return the bits per weight of the file if all free matrices have `MAX_BITS`."""
    return file.bits_per_weight(file.bytes(planned_sizes(plans, MAX_BITS)))
