"""Define the forms that gamma and beta of a LayerNorm have in memory."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rbe_cli.codec.registry import codec_named
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.codec.vectors.coded_vector import choose
from rbe_cli.errors import UsageError
from rbe_cli.runtime.arrays import Float32, Floating


@dataclass(frozen=True, eq=False)
class CompressedVector:
    """Hold a vector in the bytes of a file (codec/vectors/coded_vector.py).

    Attributes:
        shape: of the values.
        codec: the name of a codec of vectors; `scalar` holds one number for all values.
        data: the codec's bytes.
    """

    shape: tuple[int, ...]
    codec: str
    data: bytes

    @cached_property
    def values(self) -> Float32:
        """Return the values, read-only float32 of the shape, which are decoded once.

        Raises:
            PayloadError: the bytes are wrong.
        """
        found = codec_named(self.codec).decode(self.data, self.shape)
        found.flags.writeable = False
        return found

    @property
    def nbytes(self) -> int:
        """Return the bytes of the compressed form."""
        return len(self.data)

    @property
    def kept_bytes(self) -> int:
        """Return the bytes of the decoded values, if they were needed so far."""
        return self.values.nbytes if "values" in vars(self) else 0


LayerNormParameter = Floating | float | CompressedVector
"""Values of the normalised shape, a number for all of them, or compressed values."""


@dataclass(frozen=True)
class CompressionStatistics:
    """Say what compressing gamma and beta gained and cost.

    Attributes:
        original_bytes: of either as float32.
        gamma_bytes, beta_bytes: of the compressed forms.
        largest_error: of a value of either, compared with what it was before.
    """

    original_bytes: int
    gamma_bytes: int
    beta_bytes: int
    largest_error: float

    @property
    def gamma_ratio(self) -> float:
        """Return how many times smaller gamma is than as float32."""
        return self.original_bytes / self.gamma_bytes

    @property
    def beta_ratio(self) -> float:
        """Return how many times smaller beta is than as float32."""
        return self.original_bytes / self.beta_bytes

    @property
    def ratio(self) -> float:
        """Return how many times smaller both together are than as float32."""
        return 2 * self.original_bytes / (self.gamma_bytes + self.beta_bytes)

    @property
    def saved_bytes(self) -> int:
        """Return by how many bytes both are smaller than as float32."""
        return 2 * self.original_bytes - self.gamma_bytes - self.beta_bytes


def values_of(parameter: LayerNormParameter) -> Floating | float:
    """Return an array of the normalised shape, or the number that stands for it."""
    return parameter.values if isinstance(parameter, CompressedVector) else parameter


def held(parameter: LayerNormParameter, *, is_float32: bool) -> LayerNormParameter:
    """Return a parameter as a layer keeps it: arrays as contiguous copies of its own.

    Args:
        parameter: in any form.
        is_float32: whether arrays become float32, as compiled kernels take no other; float64
            stays otherwise.
    """
    if isinstance(parameter, CompressedVector):
        return parameter
    if np.ndim(parameter) == 0:
        return float(parameter)
    kind = np.float32 if is_float32 else np.result_type(parameter, np.float32)
    return np.array(parameter, kind, order="C")


def compressed_vector(values: Floating, max_error: float) -> CompressedVector:
    """Compress values of any shape.

    Args:
        values: finite, float32 or float64.
        max_error: how far a value may move; the form that takes the fewest bytes is chosen
            among those that keep to it.

    Raises:
        UsageError: `max_error` is not a positive number, a value is not finite, or float32
            does not hold float64 values well enough.
    """
    if not (math.isfinite(max_error) and max_error > 0):
        raise UsageError(f"max_error must be a positive number, and is {max_error}")
    if not np.isfinite(values).all():
        raise UsageError("a vector that holds NaN or infinite values cannot be compressed")
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    lost = float(np.abs(rounded - values.astype(np.float64)).max())
    if lost >= max_error:
        raise UsageError(f"float32 alone moves a value by {lost:.2g}, and max_error is {max_error}")
    codec, data = _within(rounded.ravel(), max_error - lost)
    return CompressedVector(values.shape, codec, data)


def _within(values: Float32, max_error: float) -> tuple[str, bytes]:
    """Return the fewest bytes of which no value errs by more than `max_error`."""
    # `choose` allows half a step and one rounding to float32.
    rounding = 2 * float(np.finfo(np.float32).eps) * float(np.abs(values).max())
    largest_step = float(np.finfo(np.float32).max) / 2
    step = np.nextafter(np.float32(min(2 * (max_error - rounding), largest_step)), np.float32(0))
    if step > 0:
        codec, data = choose(values, float(step))
        decoded = codec_named(codec).decode(data, values.shape)
        error = np.abs(decoded.astype(np.float64) - values)
        if error.max() <= max_error:
            return codec, data
    exact = dense_tensor.exact(values)
    return exact, dense_tensor.encode(values, exact)
