"""A GPT-2 whose weights lie on the GPU, and its forward pass there."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import cuda

from rbe_cli.cuda.attention_kernels import add_rows
from rbe_cli.cuda.device_cache import DeviceCache
from rbe_cli.cuda.device_layer_norm import layer_norm
from rbe_cli.cuda.device_weights import on_device
from rbe_cli.cuda.fused_feed_forward import DeviceFeedForward
from rbe_cli.cuda.paged_attention import Place, attend
from rbe_cli.cuda.rounded_inputs import RoundedInputs
from rbe_cli.model.config import Gpt2Config
from rbe_cli.nn.layer_norm_parameters import LayerNormParameter, values_of
from rbe_cli.nn.named_weights import NamedWeights
from rbe_cli.runtime.arrays import Float32, Int64
from rbe_cli.weights.weight_forms import Weight

_THREADS = 128

Observer = Callable[[str, Float32], None]


class _Vectors:
    """Bring vectors of the weights to the device."""

    def __init__(self, weights: NamedWeights) -> None:
        self._weights = weights

    def load(self, name: str, width: int) -> Any:
        """Return a vector `[width]`, whatever its form in memory."""
        values = values_of(cast(LayerNormParameter, self._weights[name]))
        return cuda.to_device(np.broadcast_to(np.asarray(values, np.float32), width).copy())

    def norm(self, name: str, width: int) -> tuple[Any, Any]:
        """Return gamma and beta `[width]` of a LayerNorm."""
        return self.load(f"{name}.weight", width), self.load(f"{name}.bias", width)


class DeviceBlock:
    """Hold one layer: two LayerNorms, and four matrices with their biases.

    Attributes:
        nbytes: bytes that a token reads.
    """

    def __init__(
        self, config: Gpt2Config, number: int, weights: NamedWeights, inputs: RoundedInputs
    ) -> None:
        """Copy a layer's weights to the device."""
        prefix, vectors = f"h.{number}", _Vectors(weights)
        width = config.n_embd
        self._config = config
        self._scale = config.score_scale(number)
        self._ln_1, self._ln_2 = (
            vectors.norm(f"{prefix}.{own}", width) for own in ("ln_1", "ln_2")
        )
        linears = {}
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
            weight = cast(Weight, weights[f"{prefix}.{name}.weight"])
            bias = vectors.load(f"{prefix}.{name}.bias", weight.shape[1])
            linears[name] = on_device(weight, inputs), bias
        self._c_attn, self._c_proj = linears["attn.c_attn"], linears["attn.c_proj"]
        self._mlp = DeviceFeedForward(
            *linears["mlp.c_fc"], *linears["mlp.c_proj"], config.activation_function
        )
        self.nbytes = sum(own.nbytes for pair in linears.values() for own in pair)
        self.nbytes += sum(own.nbytes for own in (*self._ln_1, *self._ln_2))

    def forward(self, number: int, buffers: "Buffers", cache: DeviceCache, place: Place) -> None:
        """Replace `buffers.x` by the layer's output."""
        x, normed, eps = buffers.x, buffers.normed, self._config.layer_norm_epsilon
        matrix, bias = self._c_attn
        layer_norm(x, *self._ln_1, eps, normed)
        matrix.multiply(normed, buffers.qkv, bias)
        attend(cache, number, buffers.qkv, place, self._scale, buffers.attended)
        matrix, bias = self._c_proj
        matrix.multiply(buffers.attended, x, bias, add=x)
        layer_norm(x, *self._ln_2, eps, normed)
        self._mlp(normed, x, add=x)


class Buffers:
    """Hold what lies between the layers of so many tokens, on the device, in float32."""

    def __init__(self, config: Gpt2Config, tokens: int) -> None:
        width = config.n_embd
        self.x, self.normed, self.attended = (self._array(tokens, width) for _ in range(3))
        self.qkv = self._array(tokens, 3 * width)

    @staticmethod
    def _array(tokens: int, width: int) -> Any:
        return cuda.device_array((tokens, width), np.float32)


class DeviceModel:
    """Hold a model's weights on the device.

    Attributes:
        config: shapes and options.
        weight_bytes: bytes of weights that decoding one token reads.
    """

    def __init__(self, config: Gpt2Config, weights: NamedWeights) -> None:
        """Copy all weights.

        Args:
            config: shapes and options.
            weights: of these shapes, as of `LoadedModel`.
        """
        self.config = config
        inputs, vectors = RoundedInputs(), _Vectors(weights)
        self._embeddings = [
            on_device(cast(Weight, weights[f"{name}.weight"]), inputs) for name in ("wte", "wpe")
        ]
        self._blocks = [DeviceBlock(config, i, weights, inputs) for i in range(config.n_layer)]
        self._last_norm = vectors.norm("ln_f", config.n_embd)
        self._head = self._embeddings[0]
        if not config.tie_word_embeddings:
            self._head = on_device(cast(Weight, weights["lm_head.weight"]), inputs)
        self._buffers: dict[int, Buffers] = {}
        self.weight_bytes = sum(block.nbytes for block in self._blocks) + self._head.nbytes

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
        self._embed(ids, place, buffers)
        for number, block in enumerate(self._blocks):
            block.forward(number, buffers, cache, place)
            if observe is not None:
                observe(f"h.{number}", buffers.x.copy_to_host())
        if not wanted:
            return np.empty((0, self.config.vocab_size), np.float32)
        eps = self.config.layer_norm_epsilon
        layer_norm(buffers.x, *self._last_norm, eps, buffers.normed)
        logits = cuda.device_array((len(wanted), self.config.vocab_size), np.float32)
        self._head.multiply(buffers.normed[wanted.start : wanted.stop], logits)
        found: Float32 = logits.copy_to_host()
        return found

    def _embed(self, ids: Int64, place: Place, buffers: Buffers) -> None:
        """Set x to the sum of both embeddings."""
        wte, wpe = self._embeddings
        wte.columns(cuda.to_device(ids.astype(np.int32)), buffers.x)
        wpe.columns(place.positions, buffers.normed)
        add_rows.launch(len(ids), min(self.config.n_embd, _THREADS), buffers.x, buffers.normed)

    def _buffers_for(self, tokens: int) -> Buffers:
        """Return buffers of that size; those of the last two sizes are kept."""
        if tokens not in self._buffers:
            if len(self._buffers) > 1:
                del self._buffers[next(iter(self._buffers))]
            self._buffers[tokens] = Buffers(self.config, tokens)
        return self._buffers[tokens]
