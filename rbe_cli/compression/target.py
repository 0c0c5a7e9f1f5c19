"""Turns what was asked for into a rate, and into tensors that are stored exactly.

Lossy coding is of use up to `MAX_BITS` bits a weight: there the divergence is that of rounding
in float32, and its integers are used up. A size beyond that is spent on tensors that are stored
exactly, in float16 where every value fits and in float32 otherwise.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.compression.output_file import OutputFile
from rbe_cli.compression.rate_control import GOOD_ENOUGH
from rbe_cli.compression.rates import are_vectors_coded, matrix_rate, tensor_bits
from rbe_cli.compression.settings import MAX_BITS, MIN_BPW, Codec, Override, Settings
from rbe_cli.container.file_layout import DENSE_ITEM_BYTES
from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, tensor_shapes

KL_A_BIT = 4.4  # by what a bit a weight divides the KL divergence
_KL_AT_FOUR_BITS = 0.004  # of a middling model


@dataclass(frozen=True)
class Aim:
    """What a compression is to make.

    Attributes:
        settings: with rules for the tensors that are stored exactly.
        bits_per_weight: of the file; a first guess for a KL divergence.
        matrix_bits: about the bits a weight of the matrices without a rate of their own.
        overhead_bytes: about the bytes of the file beside its tensors, padding included.
        most: bits a weight of the file that must not be exceeded; infinite without such a limit.
    """

    settings: Settings
    bits_per_weight: float
    matrix_bits: float
    overhead_bytes: int
    most: float = math.inf


def find_aim(checkpoint: Checkpoint, settings: Settings, file: OutputFile) -> Aim:
    """The rate and the exact tensors that meet the target of the settings.

    A file that holds every tensor exactly is the best there is; a larger target is met by it.
    Otherwise a target beyond `MAX_BITS` keeps one matrix after another exactly, the smallest
    first, as far as they fit beside the others at `MAX_BITS`.

    Raises:
        UsageError: the target is too small.
    """
    wanted, most = _wanted(settings, file)
    overhead = _overhead(planned_parts(checkpoint.config, settings, MIN_BPW), file)
    rate = matrix_rate(checkpoint.config, settings, wanted, file.bits_per_weight(overhead))
    free = [name for name in checkpoint.tensors if is_matrix(name) and settings.is_free(name)]
    if rate <= MAX_BITS or not free or settings.target_kl is not None:
        return Aim(settings, wanted, rate, overhead, most)
    # First all tensors; then all matrices, and ever fewer of them.
    chosen, kept = (
        exactly(checkpoint, settings),
        sorted(free, key=lambda n: -checkpoint.tensors[n].size),
    )
    limit = wanted if most == math.inf else most
    while (size := _size(checkpoint, chosen, file)) > limit and kept:
        chosen, limit = exactly(checkpoint, settings, kept), wanted
        kept = kept[1:]
    overhead = _overhead(planned_parts(checkpoint.config, chosen, MAX_BITS), file)
    return Aim(chosen, min(size, limit), MAX_BITS, overhead, most)


def exactly(
    checkpoint: Checkpoint, settings: Settings, names: Iterable[str] | None = None
) -> Settings:
    """The settings with rules that store tensors exactly, where no rule of theirs says otherwise.

    Args:
        checkpoint: its values decide between float16 and float32.
        settings: of a target of size or divergence.
        names: of the tensors; None for all.
    """
    chosen: dict[Codec, list[str]] = {}
    for name in checkpoint.tensors if names is None else names:
        if settings.is_free(name):
            chosen.setdefault(dense_tensor.exact(checkpoint.tensors[name]), []).append(name)
    rules = tuple(Override.of_names(names, codec) for codec, names in chosen.items())
    return msgspec.structs.replace(settings, override=settings.override + rules)


def _wanted(settings: Settings, file: OutputFile) -> tuple[float, float]:
    """Bits a weight to aim at, and those that must not be exceeded."""
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


def planned_parts(
    config: Gpt2Config, settings: Settings, rate: float
) -> list[tuple[str, str, int]]:
    """Names, codecs and bytes of the tensors of a file whose free matrices have `rate`."""
    parts = []
    for name, shape in tensor_shapes(config).items():
        codec: str = settings.codec(name)
        if codec not in DENSE_ITEM_BYTES and not is_matrix(name):
            codec = "coded" if are_vectors_coded(config, settings) else "float16"
        bits = tensor_bits(config, settings, name, rate)
        parts.append((name, codec, math.ceil(bits * math.prod(shape) / 8)))
    return parts


def _overhead(parts: list[tuple[str, str, int]], file: OutputFile) -> int:
    """Return the bytes of a file of such tensors beside them."""
    return file.bytes(parts) - sum(size for _, _, size in parts)


def _size(checkpoint: Checkpoint, settings: Settings, file: OutputFile) -> float:
    """Bits a weight of the file with all free matrices at `MAX_BITS`."""
    return file.bits_per_weight(file.bytes(planned_parts(checkpoint.config, settings, MAX_BITS)))
