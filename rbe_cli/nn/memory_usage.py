"""Describe the memory that a layer's parameters take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryUsage:
    """Hold the bytes of a layer's parameters, or of a whole model's.

    Attributes:
        parameter_bytes: of the parameters as they are held, compressed or not.
        float32_bytes: of the same parameters as float32.
        decoded_bytes: of decoded copies that are kept, because they would have to be made again
            at each call. They come on top of `parameter_bytes`.
    """

    parameter_bytes: int = 0
    float32_bytes: int = 0
    decoded_bytes: int = 0

    @property
    def ratio(self) -> float:
        """Return how many times smaller the parameters are than as float32; 1 without any."""
        return self.float32_bytes / self.parameter_bytes if self.parameter_bytes else 1.0

    def __add__(self, other: "MemoryUsage") -> "MemoryUsage":
        """Return what both take together."""
        return MemoryUsage(
            self.parameter_bytes + other.parameter_bytes,
            self.float32_bytes + other.float32_bytes,
            self.decoded_bytes + other.decoded_bytes,
        )
