"""A GPT-2 whose weights lie on the GPU, and its forward pass there."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import cuda

from rbe_cli.codec.stream_rotation import StreamRotation
from rbe_cli.cuda.attention_kernels import add_rows
from rbe_cli.cuda.device_block import Buffers, DeviceBlock, DeviceLayerNorm, DeviceLinear
from rbe_cli.cuda.device_cache import DeviceCache
from rbe_cli.cuda.device_weights import on_device
from rbe_cli.cuda.paged_attention import Place
from rbe_cli.cuda.rounded_inputs import RoundedInputs
from rbe_cli.model.config import Gpt2Config
from rbe_cli.nn.layer_norm_parameters import LayerNormParameter, values_of
from rbe_cli.nn.named_weights import NamedWeights, rotation_of
from rbe_cli.runtime.arrays import Float32, Int64
from rbe_cli.weights.weight_forms import Weight

_THREADS = 128

Observer = Callable[[str, Float32], None]


class DeviceModel:
    """Hold a model's weights on the device.

    Attributes:
        config: shapes and options.
        blocks: the layers.
        rotation: of the residual stream; None if it was not rotated.
        weight_bytes: bytes of weights that decoding one token reads.
    """

    def __init__(self, config: Gpt2Config, weights: NamedWeights) -> None:
        """Copy all weights.

        Args:
            config: shapes and options.
            weights: of these shapes, as of `LoadedModel`.
        """
        self.config = config
        inputs = RoundedInputs()
        self._embeddings = [
            on_device(cast(Weight, weights[f"{name}.weight"]), inputs) for name in ("wte", "wpe")
        ]
        self.blocks = [DeviceBlock(config, i, weights, inputs) for i in range(config.n_layer)]
        self.rotation = rotation_of(weights)
        if self.rotation is None:
            self._last_norm, self._mixing = DeviceLayerNorm(config, "ln_f", weights), None
        else:
            self._last_norm, self._mixing = _mixing(config, weights, self.rotation)
        self._head = self._embeddings[0]
        if not config.tie_word_embeddings:
            self._head = on_device(cast(Weight, weights["lm_head.weight"]), inputs)
        self._buffers: dict[int, Buffers] = {}
        self.weight_bytes = sum(block.nbytes for block in self.blocks) + self._head.nbytes
        if self._mixing is not None:
            self.weight_bytes += self._mixing.nbytes

    def run(
        self,
        cache: DeviceCache,
        ids: Int64,
        rows: Int64,
        positions: Int64,
        wanted: range,
        observe: Observer | None = None,
    ) -> Float32:
        """Return the logits `[len(wanted), vocab_size]` after some of the tokens.

        Args:
            cache: takes the keys and values; it has room for them.
            ids, rows, positions: `[tokens]`, the tokens and where they belong.
            wanted: indices of tokens whose logits are asked for, one after the other.
            observe: sees each block's output `[tokens, n_embd]` under `h.0`, `h.1`, ...
        """
        buffers = self._buffers_for(len(ids))
        place = Place(cache, rows, positions)
        self._embed(ids, place.positions, buffers.x, buffers.normed)
        for number, block in enumerate(self.blocks):
            block.forward(number, buffers, cache, place)
            if observe is not None:
                observe(f"h.{number}", buffers.x.copy_to_host())
        if not wanted:
            return np.empty((0, self.config.vocab_size), np.float32)
        self._last_norm(buffers.x, buffers.normed)
        return self._logits(buffers.normed[wanted.start : wanted.stop])

    def embed(self, ids: Int64, positions: Int64) -> Float32:
        """Return the input of the first block, `[n, d]`, of tokens `[n]` at `positions` `[n]`."""
        shape = len(ids), self.config.n_embd
        x, position_rows = (cuda.device_array(shape, np.float32) for _ in range(2))
        self._embed(ids, cuda.to_device(positions.astype(np.int32)), x, position_rows)
        found: Float32 = x.copy_to_host()
        return found

    def output(self, states: Float32) -> Float32:
        """Return the logits `[n, vocab_size]` of the last block's outputs `[n, d]`."""
        x = cuda.to_device(np.ascontiguousarray(states))
        normed = cuda.device_array(states.shape, np.float32)
        self._last_norm(x, normed)
        return self._logits(normed)

    def _logits(self, normed: Any) -> Float32:
        """Multiply by the head, and copy the logits back."""
        if self._mixing is not None:
            normed, unmixed = cuda.device_array(normed.shape, np.float32), normed
            self._mixing(unmixed, normed)
        logits = cuda.device_array((normed.shape[0], self.config.vocab_size), np.float32)
        self._head.multiply(normed, logits)
        found: Float32 = logits.copy_to_host()
        return found

    def _embed(self, ids: Int64, positions: Any, x: Any, position_rows: Any) -> None:
        """Set x `[n, d]` to the sum of both embeddings; `position_rows` `[n, d]` is scratch."""
        wte, wpe = self._embeddings
        wte.columns(cuda.to_device(ids.astype(np.int32)), x)
        wpe.columns(positions, position_rows)
        add_rows.launch(len(ids), min(self.config.n_embd, _THREADS), x, position_rows)

    def _buffers_for(self, tokens: int) -> Buffers:
        """Return buffers of that size; those of the last two sizes are kept."""
        if tokens not in self._buffers:
            if len(self._buffers) > 1:
                del self._buffers[next(iter(self._buffers))]
            self._buffers[tokens] = Buffers(self.config, tokens)
        return self._buffers[tokens]


def _mixing(
    config: Gpt2Config, weights: NamedWeights, rotation: StreamRotation
) -> tuple[DeviceLayerNorm, DeviceLinear]:
    """Return the last LayerNorm, without gamma and beta, and the matrix that has them instead."""
    width = config.n_embd
    gamma, beta = (
        values_of(cast(LayerNormParameter, weights[f"ln_f.{own}"])) for own in ("weight", "bias")
    )
    matrix, bias = rotation.mixing(gamma, beta)
    norm = {"ln_f.weight": np.ones(width, np.float32), "ln_f.bias": np.zeros(width, np.float32)}
    linear = {"mixing.weight": matrix, "mixing.bias": bias}
    return DeviceLayerNorm(config, "ln_f", norm), DeviceLinear("mixing", linear, RoundedInputs())
