"""A layer of GPT-2 on the GPU: LayerNorm, attention, LayerNorm and the feed-forward part."""

from typing import Any, cast

import numpy as np
from numba import cuda

from rbe_cli.cuda.device_cache import DeviceCache
from rbe_cli.cuda.device_layer_norm import layer_norm
from rbe_cli.cuda.device_matrix import DeviceMatrix
from rbe_cli.cuda.device_weights import on_device
from rbe_cli.cuda.fused_feed_forward import DeviceFeedForward
from rbe_cli.cuda.paged_attention import Place, attend
from rbe_cli.cuda.rounded_inputs import RoundedInputs
from rbe_cli.model.config import Gpt2Config
from rbe_cli.nn.layer_norm_parameters import LayerNormParameter, values_of
from rbe_cli.nn.named_weights import NamedWeights
from rbe_cli.weights.weight_forms import Weight


class Buffers:
    """Hold the arrays between the layers, for a number of tokens, on the device in float32.

    Attributes:
        x, normed, attended: `[tokens, d]`.
        qkv: `[tokens, 3 * d]`.
    """

    def __init__(self, config: Gpt2Config, tokens: int) -> None:
        width = config.n_embd
        self.x, self.normed, self.attended = (self._array(tokens, width) for _ in range(3))
        self.qkv = self._array(tokens, 3 * width)

    @staticmethod
    def _array(tokens: int, width: int) -> Any:
        return cuda.device_array((tokens, width), np.float32)


def device_vector(weights: NamedWeights, name: str, width: int) -> Any:
    """Return a vector `[width]` of the weights on the device, whatever its form in memory."""
    values = values_of(cast(LayerNormParameter, weights[name]))
    return cuda.to_device(np.broadcast_to(np.asarray(values, np.float32), width).copy())


class DeviceLayerNorm:
    """Hold gamma and beta `[d]` of a LayerNorm."""

    def __init__(self, config: Gpt2Config, name: str, weights: NamedWeights) -> None:
        self._eps = config.layer_norm_epsilon
        self.gamma, self.beta = (
            device_vector(weights, f"{name}.{own}", config.n_embd) for own in ("weight", "bias")
        )

    @property
    def nbytes(self) -> int:
        """Return the bytes of the parameters."""
        return int(self.gamma.nbytes + self.beta.nbytes)

    def __call__(self, x: Any, out: Any, statistics: Any = None) -> None:
        """Set out `[tokens, d]` to the normalised x; arguments as of `layer_norm`."""
        layer_norm(x, self.gamma, self.beta, self._eps, out, statistics)


class DeviceLinear:
    """Hold a matrix `[K, N]` and its bias `[N]`."""

    def __init__(self, name: str, weights: NamedWeights, inputs: RoundedInputs) -> None:
        weight = cast(Weight, weights[f"{name}.weight"])
        self.matrix: DeviceMatrix = on_device(weight, inputs)
        self.bias = device_vector(weights, f"{name}.bias", weight.shape[1])

    @property
    def nbytes(self) -> int:
        """Return the bytes of the parameters."""
        return int(self.matrix.nbytes + self.bias.nbytes)

    def __call__(self, x: Any, out: Any, add: Any = None) -> None:
        """Set out `[tokens, N]` to x W + bias + add."""
        self.matrix.multiply(x, out, self.bias, add=add)


class DeviceBlock:
    """Hold one layer of a model.

    Attributes:
        ln_1, c_attn, c_proj, ln_2: its parts, with the names of the checkpoint.
        mlp: the feed-forward part.
        mlp_bytes: bytes of its parameters.
    """

    def __init__(
        self, config: Gpt2Config, number: int, weights: NamedWeights, inputs: RoundedInputs
    ) -> None:
        """Copy a layer's weights to the device."""
        prefix = f"h.{number}"
        self._scale = config.score_scale(number)
        self.ln_1, self.ln_2 = (
            DeviceLayerNorm(config, f"{prefix}.{own}", weights) for own in ("ln_1", "ln_2")
        )
        self.c_attn, self.c_proj, c_fc, mlp_proj = (
            DeviceLinear(f"{prefix}.{own}", weights, inputs)
            for own in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
        )
        self.mlp = DeviceFeedForward(
            c_fc.matrix, c_fc.bias, mlp_proj.matrix, mlp_proj.bias, config.activation_function
        )
        self.mlp_bytes = c_fc.nbytes + mlp_proj.nbytes

    @property
    def attention_bytes(self) -> int:
        """Return the bytes of attention's parameters."""
        return self.c_attn.nbytes + self.c_proj.nbytes

    @property
    def nbytes(self) -> int:
        """Return the bytes of all parameters, which a token reads."""
        return self.ln_1.nbytes + self.attention_bytes + self.ln_2.nbytes + self.mlp_bytes

    def attend(
        self,
        number: int,
        x: Any,
        buffers: Buffers,
        cache: DeviceCache,
        place: Place,
        out: Any,
        add: Any = None,
    ) -> None:
        """Set out to attention's output plus `add`, and append keys and values to the cache.

        Args:
            number: of the layer in the cache.
            x: `[tokens, d]`, normalised.
            buffers: takes the intermediate arrays.
            cache: has room for the tokens.
            place: where they belong in it.
            out: `[tokens, d]`, not `x`.
            add: the residual `[tokens, d]`, which may be `out`; None for none.
        """
        self.c_attn(x, buffers.qkv)
        attend(cache, number, buffers.qkv, place, self._scale, buffers.attended)
        self.c_proj(buffers.attended, out, add)

    def forward(self, number: int, buffers: Buffers, cache: DeviceCache, place: Place) -> None:
        """Replace `buffers.x` by the output of the layer, which has this number in the cache."""
        x, normed = buffers.x, buffers.normed
        self.ln_1(x, normed)
        self.attend(number, normed, buffers, cache, place, x, add=x)
        self.ln_2(x, normed)
        self.mlp(normed, x, add=x)
