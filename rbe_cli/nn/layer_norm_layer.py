"""Normalise the last axes of an array."""

import math
from typing import Literal

import numpy as np

from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.nn.layer import Layer
from rbe_cli.nn.layer_norm_parameters import (
    CompressedVector,
    CompressionStatistics,
    LayerNormParameter,
    compressed_vector,
    held,
    values_of,
)
from rbe_cli.nn.memory_usage import MemoryUsage
from rbe_cli.nn.observer import GradientObserver
from rbe_cli.nn.operation_counts import norm_operations
from rbe_cli.nn.shape_checks import check_shape
from rbe_cli.runtime.arrays import Float64, Floating, Norm

NormVariant = Literal["fused", "standard", "mixed"]
"""How a LayerNorm goes through its input.

`fused`: each row once, float64 sums; a block may make it part of the product that follows.
`standard`: passes over all rows, for the means, for the variances and for the result; the same
bits where kernels are compiled. `mixed`: as `fused`, with input and output in float16 and
parameters and sums as ever.
"""


class LayerNorm(Layer):
    """Compute (x - mean) / sqrt(variance + eps) * gamma + beta over the last axes.

    The variance is the biased one (Ba et al. 2016).

    Attributes:
        eps: is added to the variance.
        variant: how the layer goes through its input.
    """

    def __init__(
        self,
        name: str,
        shape: int | tuple[int, ...],
        kernels: Kernels,
        *,
        gamma: LayerNormParameter | None = None,
        beta: LayerNormParameter | None = None,
        eps: float = 1e-5,
        variant: NormVariant = "fused",
    ) -> None:
        """Keep the parameters in the form that they have.

        Args:
            name: gamma's canonical name.
            shape: the last axes of the input, which are normalised together.
            kernels: compute.
            gamma: of this shape, compressed, or a number for all of it; None for ones.
            beta: as gamma; None for zeros.
            eps: is added to the variance.
            variant: how.

        Raises:
            UsageError: gamma or beta has another shape, or the shape is empty.
        """
        super().__init__(name, kernels)
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not self.shape or min(self.shape) < 1:
            raise UsageError(f"{name}: a LayerNorm cannot have the shape {list(self.shape)}")
        self.eps = eps
        self.variant = variant
        self._norm: Norm | None = None
        self.gamma = np.ones(self.shape, np.float32) if gamma is None else gamma
        self.beta = np.zeros(self.shape, np.float32) if beta is None else beta

    @property
    def gamma(self) -> LayerNormParameter:
        """Return the factor: values of the normalised shape, a number, or a compressed vector."""
        return self._gamma

    @gamma.setter
    def gamma(self, parameter: LayerNormParameter) -> None:
        self._gamma = self._checked(parameter, "gamma")

    @property
    def beta(self) -> LayerNormParameter:
        """Return what is added, in a form as of gamma."""
        return self._beta

    @beta.setter
    def beta(self, parameter: LayerNormParameter) -> None:
        self._beta = self._checked(parameter, "beta")

    @property
    def width(self) -> int:
        """Return how many elements are normalised together."""
        return math.prod(self.shape)

    @property
    def norm(self) -> Norm:
        """Return gamma and beta `[width]` as kernels take them; they are decoded once."""
        if self._norm is None:
            self._norm = Norm(self._flat(self.gamma), self._flat(self.beta), self.eps)
        return self._norm._replace(eps=self.eps)

    def __call__(self, x: Floating, statistics: Float64 | None = None) -> Floating:
        """Return the result for `[..., *shape]`, of the same shape; float16 if mixed.

        Args:
            x: input.
            statistics: `[rows, 2]`, takes each row's mean and 1 / sqrt(variance + eps), which
                the backward pass then need not compute.

        Raises:
            UsageError: an array has a wrong shape.
        """
        self._check(x, statistics)
        with self._counted(lambda: norm_operations(x.size)):
            rows = self._rows(x)
            out = np.empty_like(rows)
            self._normalise(rows, out, statistics)
            return out.reshape(x.shape)

    def backward(
        self,
        x: Floating,
        grad: Floating,
        observe: GradientObserver | None = None,
        statistics: Float64 | None = None,
    ) -> Floating:
        """Return the gradient `[..., *shape]` with respect to x.

        Args:
            x: input.
            grad: with respect to the output.
            observe: sees the gradients of gamma and beta.
            statistics: as the forward pass leaves them; None to compute them again.

        Raises:
            UsageError: an array has a wrong shape.
        """
        self._check(x, statistics)
        check_shape(f"{self.name}: the gradient of the output", grad.shape, x.shape)
        with self._counted(lambda: norm_operations(x.size, backward=True), backward=True):
            rows = self._rows(x)
            if statistics is None:
                statistics = np.empty((len(rows), 2))
                self._normalise(rows, np.empty_like(rows), statistics)
            rows = rows.astype(np.result_type(rows, np.float32), copy=False)
            grads = np.ascontiguousarray(grad, rows.dtype).reshape(rows.shape)
            out = np.empty_like(rows)
            gamma = self.norm.gamma
            sums = self.kernels.layer_norm_backward(rows, statistics, gamma, grads, out)
            if observe is not None:
                observe.layer_norm(self, rows, statistics, grads, sums)
            return out.reshape(x.shape)

    def compress_parameters(self, max_error: float) -> CompressionStatistics:
        """Keep gamma and beta compressed from now on.

        Args:
            max_error: how far a value may move from what it is now.

        Returns:
            The bytes that this saves, and the largest error.

        Raises:
            UsageError: as of `compressed_vector`.
        """
        norm = self.norm
        before = [values.reshape(self.shape) for values in (norm.gamma, norm.beta)]
        gamma, beta = (compressed_vector(own, max_error) for own in before)
        errors = [
            float(np.abs(own.astype(np.float64) - new.values).max())
            for own, new in zip(before, (gamma, beta), strict=True)
        ]
        self.gamma, self.beta = gamma, beta
        return CompressionStatistics(4 * self.width, gamma.nbytes, beta.nbytes, max(errors))

    def memory_usage(self) -> MemoryUsage:
        """Return what gamma and beta take."""
        held_bytes = decoded_bytes = 0
        for parameter in (self.gamma, self.beta):
            if isinstance(parameter, float):
                held_bytes += 4
                decoded_bytes += 4 * self.width if self._norm is not None else 0
            else:
                held_bytes += parameter.nbytes
            if isinstance(parameter, CompressedVector):
                decoded_bytes += parameter.kept_bytes
        return MemoryUsage(held_bytes, 8 * self.width, decoded_bytes)

    def _checked(self, parameter: LayerNormParameter, which: str) -> LayerNormParameter:
        shape = parameter.shape if isinstance(parameter, CompressedVector) else np.shape(parameter)
        if shape != ():
            check_shape(f"{self.name}: {which}", shape, self.shape)
        self._norm = None
        return held(parameter, is_float32=self.kernels.engine == "fast")

    def _check(self, x: Floating, statistics: Float64 | None) -> None:
        check_shape(f"{self.name}: the input", x.shape, (..., *self.shape))
        if statistics is not None:
            rows = x.size // self.width
            check_shape(f"{self.name}: the array of statistics", statistics.shape, (rows, 2))

    def _normalise(self, rows: Floating, out: Floating, statistics: Float64 | None) -> None:
        normalise = self.kernels.layer_norm
        if self.variant == "standard":
            normalise = self.kernels.layer_norm_standard
        normalise(rows, *self.norm, out, statistics)

    def _rows(self, x: Floating) -> Floating:
        kind = np.float16 if self.variant == "mixed" else np.result_type(x, np.float32)
        return np.ascontiguousarray(x, kind).reshape(-1, self.width)

    def _flat(self, parameter: LayerNormParameter) -> Floating:
        values = values_of(parameter)
        if isinstance(values, float):
            return np.full(self.width, values, np.float32)
        return values.reshape(-1)
