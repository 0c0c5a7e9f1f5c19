"""About how many bits the tensors of a file have, from its settings alone."""

import math

from rbe_cli.compression.settings import Settings
from rbe_cli.container.file_layout import DENSE_ITEM_BYTES
from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix, parameter_count, tensor_shapes

_VECTOR_SURPLUS = 4.0  # bits a value of a vector, above those of the matrices
_VECTOR_MOST = 16.0


def tensor_bits(config: Gpt2Config, settings: Settings, name: str, rate: float) -> float:
    """About the bits a value of a tensor in a file whose free matrices have `rate`.

    A matrix is free if it has no rate of its own and is not stored as it is.
    """
    codec, bits = settings.codec(name), settings.bits(name)
    if codec in DENSE_ITEM_BYTES:
        return 8.0 * DENSE_ITEM_BYTES[codec]
    if is_matrix(name):
        return rate if bits is None else bits
    coded = are_vectors_coded(config, settings)
    return min(rate + _VECTOR_SURPLUS, _VECTOR_MOST) if coded else _VECTOR_MOST


def matrix_rate(
    config: Gpt2Config, settings: Settings, bits_per_weight: float, header: float = 0.0
) -> float:
    """About the rate that a target leaves for the free matrices, at least 1.

    Args:
        config, settings: of the file.
        bits_per_weight: of the file.
        header: bits a weight of what is no tensor.

    Raises:
        UsageError: it leaves none.
    """
    left, free, coded = (bits_per_weight - header) * parameter_count(config), 0, 0
    for name, shape in tensor_shapes(config).items():
        count = math.prod(shape)
        # Bits are linear in the rate: those at 0, and as many more as values follow it.
        left -= tensor_bits(config, settings, name, 0.0) * count
        if tensor_bits(config, settings, name, 1.0) > tensor_bits(config, settings, name, 0.0):
            free += count if is_matrix(name) else 0
            coded += 0 if is_matrix(name) else count
    if free and left <= 0:
        raise UsageError(
            f"{bits_per_weight:.4g} bits a weight cannot be reached with these rules: "
            "what they keep is larger"
        )
    rate = left / max(free + coded, 1)
    if rate + _VECTOR_SURPLUS > _VECTOR_MOST:  # from there on, vectors follow it no more
        rate = (left - (_VECTOR_MOST - _VECTOR_SURPLUS) * coded) / max(free, 1)
    return max(rate, 1.0)


def are_vectors_coded(config: Gpt2Config, settings: Settings) -> bool:
    """Whether some matrix's errors are counted in nats, as those of vectors are."""
    matrices = [name for name in tensor_shapes(config) if is_matrix(name)]
    coded = any(settings.codec(name) == "ectcq" for name in matrices)
    return coded and settings.objective == "kl"
