"""Layer normalisation."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rbe_cli.codec.registry import codec_named
from rbe_cli.codec.vectors.coded_vector import choose
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.nn.observer import GradientObserver
from rbe_cli.runtime.arrays import Float64, Floating, Norm

Variant = Literal["fused", "standard", "mixed"]
"""How a LayerNorm goes through its input.

`fused`: each row once, float64 sums. `standard`: passes over all rows, for the means, for the
variances and for the result; the same bits where kernels are compiled. `mixed`: as `fused`, with
activations in float16 and parameters and sums as ever.
"""


@dataclass(frozen=True)
class CompressedVector:
    """A LayerNorm parameter in the bytes of a file (codec/vectors/coded_vector.py)."""

    shape: tuple[int, ...]
    codec: str
    data: bytes

    def decode(self) -> Floating:
        """The values, float32."""
        return codec_named(self.codec).decode(self.data, self.shape)


Parameter = Floating | float | CompressedVector
"""Values of the normalised shape, one for all, or compressed ones, decoded when used."""


@dataclass(frozen=True)
class CompressionStatistics:
    """What `compress_parameters` made of gamma and beta.

    Attributes:
        original_bytes: of both in float32.
        gamma_bytes, beta_bytes: compressed.
        largest_error: of a value.
    """

    original_bytes: int
    gamma_bytes: int
    beta_bytes: int
    largest_error: float

    @property
    def ratio(self) -> float:
        """How many times smaller both are."""
        return self.original_bytes / (self.gamma_bytes + self.beta_bytes)


class LayerNorm:
    """(x - mean) / sqrt(variance + eps) * gamma + beta over the last axes (Ba et al. 2016).

    The variance is the biased one.

    Args:
        name: gamma's canonical name.
        gamma, beta: of the normalised shape, compressed, or a number for all of it.
        eps: added to the variance.
        kernels: compute.
        shape: the normalised one; None for gamma's.
        variant: how.
    """

    def __init__(
        self,
        name: str,
        gamma: Parameter,
        beta: Parameter,
        eps: float,
        kernels: Kernels,
        *,
        shape: tuple[int, ...] | None = None,
        variant: Variant = "fused",
    ) -> None:
        self.name = name
        self.shape = np.shape(_values(gamma)) if shape is None else shape
        self.gamma, self.beta = _kept(gamma), _kept(beta)
        self.eps = eps
        self.variant = variant
        self._kernels = kernels
        for values in (self.gamma, self.beta):
            if np.shape(_values(values)) not in ((), self.shape):
                raise UsageError(f"{name}: parameters do not have the shape {self.shape}")

    @property
    def width(self) -> int:
        """Elements that are normalised together."""
        return math.prod(self.shape)

    @property
    def norm(self) -> Norm:
        """As kernels take it, gamma and beta `[width]`."""
        return Norm(self._flat(self.gamma), self._flat(self.beta), self.eps)

    def __call__(self, x: Floating, statistics: Float64 | None = None) -> Floating:
        """`[..., *shape]` -> the same; float16 if the variant is mixed.

        Args:
            x: input.
            statistics: `[rows, 2]`, takes each row's mean and 1 / sqrt(variance + eps), which
                the backward pass then need not compute.
        """
        rows = self._rows(x)
        out = np.empty_like(rows)
        normalise = self._kernels.layer_norm
        if self.variant == "standard":
            normalise = self._kernels.layer_norm_standard
        normalise(rows, *self.norm, out, statistics)
        return out.reshape(x.shape)

    def backward(
        self,
        x: Floating,
        grad: Floating,
        observe: GradientObserver | None = None,
        statistics: Float64 | None = None,
    ) -> Floating:
        """Gradient `[..., *shape]` with respect to x.

        Args:
            x: input.
            grad: with respect to the output.
            observe: sees the gradients of gamma and beta.
            statistics: as the forward pass leaves them; None to compute them again.
        """
        if statistics is None:
            statistics = np.empty((x.size // self.width, 2))
            self(x, statistics)
        rows = self._rows(x)
        rows = rows.astype(np.result_type(rows, np.float32), copy=False)
        grads = np.ascontiguousarray(grad, rows.dtype).reshape(rows.shape)
        out = np.empty_like(rows)
        gamma = self._flat(self.gamma)
        sums = self._kernels.layer_norm_backward(rows, statistics, gamma, grads, out)
        if observe is not None:
            observe.layer_norm(self, rows, statistics, grads, sums)
        return out.reshape(x.shape)

    def compress_parameters(self, step: float) -> CompressionStatistics:
        """Keep gamma and beta compressed from now on.

        Args:
            step: twice what a value may err by, unless float16 takes fewer bytes.
        """
        norm = self.norm
        original = [np.asarray(values, np.float32) for values in (norm.gamma, norm.beta)]
        compressed = [CompressedVector(self.shape, *choose(own, step)) for own in original]
        self.gamma, self.beta = compressed
        errors = [
            np.abs(own - new.decode().ravel()).max()
            for own, new in zip(original, compressed, strict=True)
        ]
        return CompressionStatistics(
            sum(own.nbytes for own in original),
            len(compressed[0].data),
            len(compressed[1].data),
            float(max(errors)),
        )

    def _rows(self, x: Floating) -> Floating:
        kind = np.float16 if self.variant == "mixed" else np.result_type(x, np.float32)
        return np.ascontiguousarray(x, kind).reshape(-1, self.width)

    def _flat(self, parameter: Parameter) -> Floating:
        values = np.asarray(_values(parameter))
        if values.ndim == 0:
            return np.full(self.width, values, np.float32)
        return values.reshape(-1)


def _values(parameter: Parameter) -> Floating | float:
    return parameter.decode() if isinstance(parameter, CompressedVector) else parameter


def _kept(parameter: Parameter) -> Parameter:
    """Arrays are copied, as kernels take contiguous ones of their own."""
    if isinstance(parameter, np.ndarray):
        return np.array(parameter, np.result_type(parameter, np.float32), order="C")
    return parameter if isinstance(parameter, CompressedVector) else float(parameter)
