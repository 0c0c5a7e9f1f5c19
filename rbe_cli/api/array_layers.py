"""Compressed layers from arrays: a linear layer, or a transformer block, ready to compute."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from rbe_cli.api.model_tensors import checked
from rbe_cli.codec.codec import Codec, CodecOptions, EncodingJob, SteppedCodec
from rbe_cli.codec.column_blocks import column_blocks
from rbe_cli.codec.error_cost import ErrorCost
from rbe_cli.codec.registry import CODECS
from rbe_cli.compression.encoding import Source, encode_all, sampled_bits
from rbe_cli.compression.metric import make_cost
from rbe_cli.compression.scale_search import solve_scale
from rbe_cli.compression.settings import MAX_BITS, MIN_BPW
from rbe_cli.errors import UsageError
from rbe_cli.jobs.workers import workers
from rbe_cli.kernels.kernel_table import Kernels, load_kernels
from rbe_cli.model.config import Activation, Gpt2Config
from rbe_cli.model.tensor_names import layer_shapes
from rbe_cli.nn.attention_layer import Attention
from rbe_cli.nn.feed_forward_layer import FeedForward
from rbe_cli.nn.layer_norm_layer import LayerNorm
from rbe_cli.nn.linear_layer import Linear
from rbe_cli.nn.transformer_block import TransformerBlock
from rbe_cli.quoting import quoted
from rbe_cli.runtime.arrays import Float32
from rbe_cli.weights.weight_forms import Weight

_TOLERANCE = 0.01  # of the bits that are asked for


def compress_linear(
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    bits: float = 4,
    *,
    codec: str = "ectcq",
    inputs: ArrayLike | None = None,
    threads: int | None = None,
    name: str = "weight",
) -> Linear:
    """Compress a linear layer y = x W + b.

    Args:
        weight: W `[inputs, outputs]`, as GPT-2 stores it; PyTorch's `nn.Linear` has the transpose.
        bias: b `[outputs]`; None for zeros. It is not compressed.
        bits: a weight, about; 2, 4 or 8 with `fixed`.
        codec: `ectcq` loses least, `fixed` has the same bits for each weight, and `classic` is the
            original design.
        inputs: calibration inputs x `[tokens, inputs]`, for which the error of y is then least.
            Without them all weights matter alike. `classic` does not use them.
        threads: that compute; None for the physical cores.
        name: of the layer, for observers and messages.

    Raises:
        UsageError: an array has another shape or is not finite, or there are no such bits.
    """
    matrix = _matrix(name, weight)
    vector = None if bias is None else checked("`bias`", bias, (matrix.shape[1],))
    states = None if inputs is None else _inputs(inputs, matrix.shape[0])
    kernels = load_kernels("fast", threads)
    return Linear(name, _compressed(name, matrix, bits, codec, states, threads), vector, kernels)


def compress_block(
    tensors: Mapping[str, ArrayLike],
    n_head: int,
    bits: float = 4,
    *,
    codec: str = "ectcq",
    activation: Activation = "gelu_new",
    epsilon: float = 1e-5,
    inputs: ArrayLike | None = None,
    threads: int | None = None,
) -> TransformerBlock:
    """Compress the four matrices of a GPT-2 block.

    Args:
        tensors: `ln_1.weight`, `ln_1.bias`, `attn.c_attn.weight` and so on, as a checkpoint names
            them after the layer's prefix, with its shapes. LayerNorms and biases are kept.
        n_head: attention heads.
        bits, codec, threads: as of `compress_linear`.
        activation: function of the feed-forward part.
        epsilon: of the LayerNorms.
        inputs: calibration inputs of the block, `[batch, seq, d]`; each matrix is then compressed
            for what reaches it.

    Raises:
        UsageError: as `compress_linear`, or a tensor is missing, or heads do not divide the width.
    """
    arrays, config = _block_arrays(tensors, n_head, activation, epsilon)
    kernels = load_kernels("fast", threads)
    weights: dict[str, Weight] = dict(arrays)
    states: dict[str, Float32] = {}
    if inputs is not None:
        x = np.array(inputs, np.float32)
        if x.ndim != 3 or x.shape[-1] != config.n_embd:
            raise UsageError(f"`inputs` are [batch, seq, {config.n_embd}], not {x.shape}")

        def observe(name: str, values: Float32) -> None:
            states[name] = values.copy()

        _block(weights, config, kernels)(x, observe=observe)
    for name, array in arrays.items():
        if array.ndim == 2:
            weights[name] = _compressed(name, array, bits, codec, states.get(name), threads)
    return _block(weights, config, kernels)


def _block_arrays(
    tensors: Mapping[str, ArrayLike], n_head: int, activation: Activation, epsilon: float
) -> tuple[dict[str, Float32], Gpt2Config]:
    """Check a block's tensors against the shapes that they ask for themselves."""
    missing = sorted(layer_shapes(_config(1, 1, 1, activation, epsilon)).keys() - tensors.keys())
    if missing:
        raise UsageError(f"`tensors` lack {', '.join(missing)}")
    width, inner = np.shape(tensors["ln_1.weight"]), np.shape(tensors["mlp.c_fc.bias"])
    if len(width) != 1 or len(inner) != 1 or 0 in (*width, *inner):
        raise UsageError("ln_1.weight and mlp.c_fc.bias are vectors that are not empty")
    if n_head < 1 or width[0] % n_head:
        raise UsageError(f"`n_head` {n_head} does not divide the width of {width[0]}")
    config = _config(width[0], n_head, inner[0], activation, epsilon)
    arrays = {
        name: checked(name, tensors[name], shape) for name, shape in layer_shapes(config).items()
    }
    return arrays, config


def _config(
    width: int, n_head: int, inner: int, activation: Activation, epsilon: float
) -> Gpt2Config:
    """Return the config of a model of one such block."""
    return Gpt2Config(1, 1, width, 1, n_head, inner, activation, epsilon)


def _block(weights: Mapping[str, Weight], config: Gpt2Config, kernels: Kernels) -> TransformerBlock:
    """Assemble a block of these weights, under their names in it."""

    def vector(name: str) -> Float32:
        return np.asarray(weights[name], np.float32)

    def norm(name: str) -> LayerNorm:
        return LayerNorm(
            f"{name}.weight",
            config.n_embd,
            kernels,
            gamma=vector(f"{name}.weight"),
            beta=vector(f"{name}.bias"),
            eps=config.layer_norm_epsilon,
        )

    def linear(name: str) -> Linear:
        return Linear(f"{name}.weight", weights[f"{name}.weight"], vector(f"{name}.bias"), kernels)

    attention = Attention(
        linear("attn.c_attn"),
        linear("attn.c_proj"),
        config.n_head,
        config.score_scale(0),
        kernels,
    )
    feed_forward = FeedForward(
        linear("mlp.c_fc"), linear("mlp.c_proj"), config.activation_function, kernels
    )
    return TransformerBlock(norm("ln_1"), attention, norm("ln_2"), feed_forward)


def _matrix(name: str, weight: ArrayLike) -> Float32:
    shape = np.shape(weight)
    if len(shape) != 2 or 0 in shape:
        raise UsageError(f"{name} is a matrix [inputs, outputs], not an array of shape {shape}")
    return checked(name, weight, shape)


def _inputs(inputs: ArrayLike, rows: int) -> Float32:
    """Return calibration inputs as `[tokens, rows]`."""
    shape = np.shape(inputs)
    if len(shape) != 2 or shape[1] != rows or not shape[0]:
        raise UsageError(f"`inputs` are [tokens, {rows}], not an array of shape {shape}")
    return checked("`inputs`", inputs, shape)


def _compressed(
    name: str,
    weights: Float32,
    bits: float,
    codec: str,
    inputs: Float32 | None,
    threads: int | None,
) -> Weight:
    """Return a matrix `[K, N]` as a layer multiplies by it."""
    chosen = _codec(codec)
    if not MIN_BPW <= bits <= MAX_BITS:
        raise UsageError(f"`bits` = {bits} is not between {MIN_BPW} and {MAX_BITS}")
    options = CodecOptions(bits)
    chosen.check_bits(options)
    cost = _cost(weights, bits, inputs)
    if isinstance(chosen, SteppedCodec):
        data = _stepped(chosen, options, weights, bits, cost, threads)
    else:
        data = chosen.encode(weights, EncodingJob(options, bits, cost)).data
    return chosen.resident(data, weights.shape)


def _codec(name: str) -> Codec:
    """Return a lossy codec of matrices."""
    known = [own for own in CODECS.values() if own.takes_matrices and not own.is_exact]
    for codec in known:
        if codec.name == name:
            return codec
    raise UsageError(
        f"`codec` is one of {', '.join(own.name for own in known)}, not {quoted(name)}"
    )


def _cost(weights: Float32, bits: float, inputs: Float32 | None) -> ErrorCost:
    """Return what errors cost: the mean squared error of the outputs, or of the weights."""
    if inputs is None:
        return ErrorCost.even(weights.shape)
    moment = inputs.T.astype(np.float64) @ inputs / len(inputs)
    ones = [np.ones(part.stop - part.start) for part in column_blocks(weights.shape[1])]
    return make_cost(weights, moment, ones, "outputs", bits, len(inputs))


def _stepped(
    codec: SteppedCodec,
    options: CodecOptions,
    weights: Float32,
    bits: float,
    cost: ErrorCost,
    threads: int | None,
) -> bytes:
    """Encode at about so many bits a weight: what whole matrices take over samples is learnt."""
    source = Source.of(codec, options, weights, cost)
    unit = source.deviation * 2.0 ** (1.05 - bits)
    surplus = 0.0
    with workers(threads) as pool:

        def rate(scale: float) -> float:
            return sampled_bits({"": source}, {"": unit * scale}, pool)[""] + surplus

        for _ in range(3):
            step = unit * solve_scale(rate, bits, 0.2 * _TOLERANCE * bits)
            ((_, encoded),) = encode_all({"": source}, {"": step}, pool)
            reached = 8 * len(encoded) / weights.size
            if abs(reached / bits - 1) <= _TOLERANCE:
                break
            surplus += reached - rate(step / unit)
    return encoded
