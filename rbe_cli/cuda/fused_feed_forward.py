"""Compute the feed-forward part of a block on a GPU; what lies between its layers never leaves it.

c_fc's kernel adds the bias and applies the activation, c_proj's adds its bias and the residual.
"""

from typing import Any

import numpy as np
from numba import cuda

from rbe_cli.cuda.device_matrix import DeviceMatrix
from rbe_cli.errors import UsageError
from rbe_cli.model.config import Activation


class DeviceFeedForward:
    """Compute c_proj(activation(c_fc(x))) + add.

    Attributes:
        memory_limit: bytes that the hidden layer and the products' rounded inputs may take at
            once; tokens then go through in chunks, at least one at a time. None for no limit.

    Args:
        c_fc: `[d, n_inner]`.
        fc_bias: float32 `[n_inner]` on the GPU.
        c_proj: `[n_inner, d]`.
        proj_bias: float32 `[d]` on the GPU.
        activation: function of the hidden layer.
        memory_limit: see above.

    Raises:
        UsageError: the matrices do not fit together, or the limit is below 1.
    """

    def __init__(
        self,
        c_fc: DeviceMatrix,
        fc_bias: Any,
        c_proj: DeviceMatrix,
        proj_bias: Any,
        activation: Activation,
        memory_limit: int | None = None,
    ) -> None:
        if c_proj.shape != c_fc.shape[::-1]:
            raise UsageError(f"c_proj has the shape {c_proj.shape}, not {c_fc.shape[::-1]}")
        if memory_limit is not None and memory_limit < 1:
            raise UsageError(f"a memory limit of {memory_limit} bytes is below 1")
        self.memory_limit = memory_limit
        self._c_fc, self._fc_bias = c_fc, fc_bias
        self._c_proj, self._proj_bias = c_proj, proj_bias
        self._activation: Activation = activation
        self._hidden = cuda.device_array((0, c_fc.shape[1]), np.float32)

    def __call__(self, x: Any, out: Any, add: Any = None) -> None:
        """Set out to the result plus `add`; all arrays are float32 on the GPU, contiguous.

        Args:
            x: `[tokens, d]`.
            out: `[tokens, d]`, not `x`.
            add: the residual `[tokens, d]`, which may be `x` or `out`; None for none.

        Raises:
            UsageError: an array has a wrong shape.
        """
        tokens = x.shape[0]
        step = self._chunk_tokens(tokens)
        if self._hidden.shape[0] < step:
            self._hidden = cuda.device_array((step, self._c_fc.shape[1]), np.float32)
        for start in range(0, tokens, step):
            own = slice(start, min(start + step, tokens))
            hidden = self._hidden[: own.stop - own.start]
            added = None if add is None else add[own]
            self._c_fc.multiply(x[own], hidden, self._fc_bias, self._activation)
            self._c_proj.multiply(hidden, out[own], self._proj_bias, add=added)

    def bytes_between(self, tokens: int) -> int:
        """Return the bytes that a call takes beside its input and its output."""
        return self._bytes_of(self._chunk_tokens(tokens))

    def _chunk_tokens(self, tokens: int) -> int:
        """Return how many tokens go through at once."""
        if self.memory_limit is None:
            return max(tokens, 1)
        return max(min(tokens, self.memory_limit // self._bytes_of(1)), 1)

    def _bytes_of(self, tokens: int) -> int:
        """Return the bytes of the hidden layer and of the rounded inputs of so many tokens."""
        rounded = max(own.input_bytes(tokens) for own in (self._c_fc, self._c_proj))
        return 4 * tokens * self._c_fc.shape[1] + rounded
