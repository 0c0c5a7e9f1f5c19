"""The words that some options may have, for the library and for the command line.

They stand here, and not beside the code that they choose, because `rbe --help` names them and
must not import numpy.
"""

from typing import Literal

ActivationBits = Literal["auto", "8", "16"]
"""Bits that a prompt's activations are rounded to; `auto`: 8 where weights of 2 or 4 bits err
more than five times as much (docs/design-notes.md)."""

Backend = Literal["cpu", "cuda"]
"""What computes: the CPU, or an NVIDIA GPU (docs/cuda.md)."""

Dtype = Literal["float32", "float16", "bfloat16"]
"""How the weights of a decompressed checkpoint are stored."""

Engine = Literal["fast", "reference"]
"""Which kernels compute: compiled ones, or their numpy twins."""

KvType = Literal["fp32", "fp16", "int8"]
"""How keys and values are kept."""

Objective = Literal["kl", "outputs"]
"""What a compression minimises: the divergence of the whole model, or each layer's error."""

Overflow = Literal["stop", "shift"]
"""What generation does once the context is full: it ends, or it keeps the newest half."""
