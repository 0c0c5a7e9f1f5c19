"""Run a block, or its layers alone, on an input in the CPU's memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numba import cuda

from rbe_cli.cuda.device_block import Buffers, DeviceBlock
from rbe_cli.cuda.device_cache import DeviceCache
from rbe_cli.cuda.device_layer_norm import layer_norm_backward
from rbe_cli.cuda.layer_norm_backward_kernels import STRIP
from rbe_cli.cuda.paged_attention import Place
from rbe_cli.model.config import Gpt2Config
from rbe_cli.runtime.arrays import Float32


class BlockRun:
    """Hold a block's input on the device, with room for all that its layers compute.

    Each call launches kernels, waits for their end, and returns the output `[tokens, d]` on the
    device. A call may be repeated.

    Args:
        config: of the model that the block belongs to.
        block: the block.
        x: input `[batch, seq, d]`.
    """

    def __init__(self, config: Gpt2Config, block: DeviceBlock, x: Float32) -> None:
        batch, seq, width = x.shape
        tokens = batch * seq
        self._block = block
        self._x = cuda.to_device(np.ascontiguousarray(x.reshape(tokens, width)))
        self._out = cuda.device_array((tokens, width), np.float32)
        self._buffers = Buffers(config, tokens)
        self._cache = DeviceCache(msgspec.structs.replace(config, n_layer=1), batch, "fp32")
        for row in range(batch):
            self._cache.reserve(row, seq)
        rows, positions = np.repeat(np.arange(batch), seq), np.tile(np.arange(seq), batch)
        self._place = Place(self._cache, rows, positions)

    def layer_norm(self) -> Any:
        """Run the first LayerNorm."""
        return self._run(self._block.ln_1)

    def linear(self) -> Any:
        """Run the product with attention's c_proj."""
        return self._run(self._block.c_proj)

    def feed_forward(self) -> Any:
        """Run the feed-forward part."""
        return self._run(self._block.mlp)

    def attention(self) -> Any:
        """Run attention with its two products."""
        return self._run(self._attend)

    def block(self) -> Any:
        """Run the block; its input is copied first, because a block replaces it."""
        self._buffers.x.copy_to_device(self._x)
        self._block.forward(0, self._buffers, self._cache, self._place)
        cuda.synchronize()
        return self._buffers.x

    def layer_norm_backward(self, grad: Float32) -> Callable[[], Any]:
        """Return a call of the first LayerNorm's backward pass.

        Args:
            grad: the gradient with respect to its output, `[batch, seq, d]`.
        """
        statistics = cuda.device_array((self._x.shape[0], 2), np.float64)
        self._block.ln_1(self._x, self._out, statistics)
        sums = [cuda.device_array(self._x.shape[1], np.float32) for _ in range(2)]
        there = cuda.to_device(np.ascontiguousarray(grad.reshape(self._x.shape)))

        def backward(x: Any, out: Any) -> None:
            layer_norm_backward(x, statistics, self._block.ln_1.gamma, there, out, *sums)

        return partial(self._run, backward)

    @property
    def end_bytes(self) -> int:
        """Return the bytes of the input and of the output."""
        return int(self._x.nbytes + self._out.nbytes)

    @property
    def layer_norm_backward_bytes(self) -> int:
        """Return the bytes that LayerNorm's backward pass takes beside x and its gradient."""
        tokens, width = self._x.shape
        blocks = -(-tokens // STRIP)
        return 4 * tokens * width + 2 * 8 * tokens + 2 * 4 * width * (blocks + 1)

    @property
    def linear_bytes(self) -> int:
        """Return the bytes that the product with c_proj takes beside its ends."""
        return self._block.c_proj.matrix.input_bytes(self._x.shape[0])

    @property
    def feed_forward_bytes(self) -> int:
        """Return the bytes that the feed-forward part takes beside its ends."""
        return self._block.mlp.bytes_between(self._x.shape[0])

    @property
    def attention_bytes(self) -> int:
        """Return the bytes that attention takes beside its ends, with keys and values."""
        arrays = int(self._buffers.qkv.nbytes + self._buffers.attended.nbytes)
        rounded = self._block.c_attn.matrix.input_bytes(self._x.shape[0])
        return arrays + self._cache.nbytes + rounded

    def _run(self, layer: Callable[[Any, Any], None]) -> Any:
        layer(self._x, self._out)
        cuda.synchronize()
        return self._out

    def _attend(self, x: Any, out: Any) -> None:
        self._block.attend(0, x, self._buffers, self._cache, self._place, out)
