"""The names of what can compute, for the library and for the command line."""

from typing import Literal

Backend = Literal["cpu", "cuda"]
"""The CPU, or an NVIDIA GPU (docs/cuda.md)."""
