"""Fit uniform grids, one for each output of each group of inputs."""

from dataclasses import dataclass

import numpy as np

from benchmarks.peers.quantised import Float32

GROUP = 128  # inputs that share a scale and a zero, for each output
SCALE_BITS = 16
SHRINKS = np.arange(1.0, 0.2, -0.01)
ERROR_POWER = np.float32(2.4)


@dataclass(frozen=True)
class Grid:
    """Hold a grid w = scale (q - zero), q being an integer from 0 to `largest`.

    Attributes:
        scale: float32 `[N]`, values of float16.
        zero: integers, float32 `[N]`: 0 is on the grid, as in GPTQ's quantiser.
        largest: 2^bits - 1.
    """

    scale: Float32
    zero: Float32
    largest: int

    @classmethod
    def fit(cls, weights: Float32, bits: int) -> "Grid":
        """Return the grid from the least to the largest weight of one group `[k, N]`."""
        largest = 2**bits - 1
        low = np.minimum(weights.min(axis=0), 0)  # [N]
        high = np.maximum(weights.max(axis=0), 0)
        scale = ((high - low) / largest).astype(np.float16).astype(np.float32)
        scale[scale == 0] = 1
        return cls(scale, np.rint(-low / scale), largest)

    @classmethod
    def search(cls, weights: Float32, bits: int) -> "Grid":
        """Return the grid of one group, clipped where that lessens the sum of |error|^2.4.

        As the option `mse` of GPTQ's authors' code.
        """
        widest = cls.fit(weights, bits)
        scale, zero = widest.scale, widest.zero
        least = np.full_like(scale, np.inf)
        for shrink in SHRINKS:
            grid = cls.fit(weights * np.float32(shrink), bits)
            errors = (np.abs(grid.nearest(weights) - weights) ** ERROR_POWER).sum(axis=0)
            better = errors < least
            scale = np.where(better, grid.scale, scale)
            zero = np.where(better, grid.zero, zero)
            least = np.minimum(errors, least)
        return cls(scale, zero, widest.largest)

    def nearest(self, weights: Float32) -> Float32:
        """Return the nearest values on the grid of `[..., N]`."""
        integers = np.clip(np.rint(weights / self.scale) + self.zero, 0, self.largest)
        return self.scale * (integers - self.zero)


def grid_bits(shape: tuple[int, int], bits: int) -> int:
    """Return the bits of a `[K, N]` matrix's integers, and of its groups' scales and zeros."""
    rows, columns = shape
    groups = -(-rows // GROUP)
    return rows * columns * bits + groups * columns * (SCALE_BITS + bits)
