"""The kernels again, in plain numpy: slow, obvious, and what the fast ones are held to."""

import math

import numpy as np

from rbe_cli.checkpoint.config import Activation
from rbe_cli.kernels.arrays import Float32, InPlace, Int64, PanelValues
from rbe_cli.kernels.panel import integers

_erf = np.frompyfunc(math.erf, 1, 1)


def matmul(
    x: Float32, values: PanelValues, row_steps: Float32, bias: Float32, out: Float32
) -> None:
    """x `[tokens, K]`, panels, row_steps `[K]`, bias `[N]` -> out `[tokens, N]`."""
    weight = row_steps[:, None] * integers(values, (x.shape[1], out.shape[1]))  # [K, N]
    out[...] = x @ weight + bias


def layer_norm(x: Float32, gamma: Float32, beta: Float32, eps: float, out: Float32) -> None:
    """out = (x - mean) / sqrt(variance + eps) * gamma + beta; x and out `[tokens, d]`."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = x.var(axis=-1, keepdims=True)
    out[...] = (x - mean) / np.sqrt(variance + eps) * gamma + beta


def attention(
    qkv: Float32,
    keys: Float32,
    values: Float32,
    rows: Int64,
    starts: Int64,
    scale: float,
    out: Float32,
) -> None:
    """As `rbe_cli.kernels.attention.attention`, without the launcher."""
    batch, seq, _ = qkv.shape
    heads, head_dim = keys.shape[1], keys.shape[3]
    for item in range(batch):
        # [seq, 3 * d] -> 3 x [head, seq, head_dim]
        q, k, v = qkv[item].reshape(seq, 3, heads, head_dim).transpose(1, 2, 0, 3)
        start, length = int(starts[item]), int(starts[item]) + seq
        keys[rows[item], :, start:length] = k
        values[rows[item], :, start:length] = v
        past_keys = keys[rows[item], :, :length]  # [head, length, head_dim]
        past_values = values[rows[item], :, :length]
        scores = scale * q @ past_keys.transpose(0, 2, 1)  # [head, seq, length]
        is_future = np.arange(length) > start + np.arange(seq)[:, None]  # [seq, length]
        weights = softmax(np.where(is_future, -np.inf, scores))
        out[item] = (weights @ past_values).transpose(1, 0, 2).reshape(seq, -1)


def softmax(x: Float32) -> Float32:
    """Over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def gelu_tanh(x: Float32) -> None:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in place, as all activations here."""
    x *= 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x: Float32) -> None:
    """0.5 x (1 + erf(x / sqrt(2)))."""
    x *= 0.5 * (1 + _erf(x * math.sqrt(0.5)).astype(x.dtype))


def quick_gelu(x: Float32) -> None:
    """x sigmoid(1.702 x)."""
    x *= _sigmoid(1.702 * x)


def silu(x: Float32) -> None:
    """x sigmoid(x)."""
    x *= _sigmoid(x)


def relu(x: Float32) -> None:
    """max(x, 0)."""
    np.maximum(x, 0, out=x)


def _sigmoid(x: Float32) -> Float32:
    return 0.5 * (1 + np.tanh(0.5 * x))


BY_NAME: dict[Activation, InPlace] = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "relu": relu,
}
