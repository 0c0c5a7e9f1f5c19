"""Search the smallest file whose KL divergence is at most a target."""

import math
from collections.abc import Callable, Mapping, Sequence

from rbe_cli.compression.output_file import Quality
from rbe_cli.compression.settings import MAX_BITS, MIN_BPW
from rbe_cli.compression.target import KL_PER_BIT
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import UsageError

_ATTEMPTS = 6
_MARGIN = 0.9  # times the target: the search for a smaller file stops above it
_MORE_BITS = 1.25  # times those of a file that cannot be made

_File = tuple[Sequence[StoredTensor], Quality]


def store_at_divergence(
    target: float,
    bits: float,
    store: Callable[[float], Sequence[StoredTensor]],
    measure: Callable[[Sequence[StoredTensor]], Quality],
) -> _File:
    """Return the smallest file found whose KL divergence is at most the target.

    If none is found, the last attempt is returned. The logarithm of the KL divergence is nearly
    linear in the bits per weight, so that the secant method finds the rate in a few attempts.

    Args:
        target: in nats per token.
        bits: per weight, of the first attempt.
        store: encodes all tensors at so many bits per weight. It raises `UsageError` for a rate
            that cannot be reached, such as 1 bit of a model whose vectors take as much.
        measure: measures encoded tensors.

    Raises:
        UsageError: no file can be made.
    """
    tried: dict[float, float] = {}  # the logarithm of the excess, by bits per weight
    best: tuple[float, _File] | None = None
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            stored = store(bits)
        except UsageError:
            if best is not None:
                break
            if attempt == _ATTEMPTS:
                raise
            bits *= _MORE_BITS
            continue
        last = stored, measure(stored)
        tried[bits] = excess = math.log(max(last[1].kl_divergence, 1e-12) / target)
        if excess <= 0 and (best is None or bits < best[0]):
            best = bits, last
        bits = _next_rate(tried)
        if math.log(_MARGIN) <= excess <= 0 or bits in tried:
            break
    return last if best is None else best[1]


def _next_rate(tried: Mapping[float, float]) -> float:
    """Return the rate to try after these, whose last ones give the slope."""
    (*before, (bits, excess)) = tried.items()
    slope = -math.log(KL_PER_BIT)
    if before:
        other_bits, other_excess = before[-1]
        slope = min(max((excess - other_excess) / (bits - other_bits), -3.0), -0.5)
    return min(max(bits + (0.5 * math.log(_MARGIN) - excess) / slope, MIN_BPW), MAX_BITS)
