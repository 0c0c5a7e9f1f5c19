"""The kernels again, in plain numpy: slow, obvious, and what the fast ones are held to."""

import math

import numpy as np

from rbe_cli.checkpoint.config import Activation
from rbe_cli.kernels.arrays import Float32, InPlace, Int64, Scaling
from rbe_cli.kernels.panel import PanelMatrix

_erf = np.frompyfunc(math.erf, 1, 1)


def matmul(x: Float32, matrix: PanelMatrix, bias: Float32, out: Float32) -> None:
    """As `rbe_cli.kernels.matmul.matmul`, in float32 throughout."""
    weight = matrix.unscaled() * matrix.column_steps  # [K, N]
    out[...] = (x * matrix.row_steps) @ weight + bias


def layer_norm(x: Float32, gamma: Float32, beta: Float32, eps: float, out: Float32) -> None:
    """out = (x - mean) / sqrt(variance + eps) * gamma + beta; x and out `[tokens, d]`."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = x.var(axis=-1, keepdims=True)
    out[...] = (x - mean) / np.sqrt(variance + eps) * gamma + beta


def layer_norm_backward(
    x: Float32, gamma: Float32, eps: float, grad: Float32, out: Float32
) -> None:
    """out = rstd (g - mean(g) - x^ mean(g x^)), g = grad gamma, x^ = (x - mean(x)) rstd."""
    centred = x - x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps)
    normalised, g = centred * rstd, grad * gamma
    along = np.mean(g * normalised, axis=-1, keepdims=True)
    out[...] = rstd * (g - g.mean(axis=-1, keepdims=True) - normalised * along)


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


def attention_backward(qkv: Float32, heads: int, scale: float, grad: Float32, out: Float32) -> None:
    """Gradient of whole sequences' attention with respect to qkv.

    Args:
        qkv: `[batch, seq, 3 * d]`, as in `attention`.
        heads: that d is divided into.
        scale: of the scores.
        grad: `[batch, seq, d]`, with respect to attention's output.
        out: `[batch, seq, 3 * d]`.
    """
    batch, seq, _ = qkv.shape
    future = np.triu(np.ones((seq, seq), bool), 1)
    for item in range(batch):
        # [seq, 3 * d] -> 3 x [head, seq, head_dim]
        q, k, v = qkv[item].reshape(seq, 3, heads, -1).transpose(1, 2, 0, 3)
        g = grad[item].reshape(seq, heads, -1).transpose(1, 0, 2)  # [head, seq, head_dim]
        scores = np.float32(scale) * (q @ k.transpose(0, 2, 1))  # [head, seq, seq]
        weights = softmax(np.where(future, -np.inf, scores))
        grad_weights = g @ v.transpose(0, 2, 1)
        row = np.sum(weights * grad_weights, axis=-1, keepdims=True)
        grad_scores = np.float32(scale) * weights * (grad_weights - row)
        parts = np.stack(
            [grad_scores @ k, grad_scores.transpose(0, 2, 1) @ q, weights.transpose(0, 2, 1) @ g]
        )  # [3, head, seq, head_dim]
        out[item] = parts.transpose(2, 0, 1, 3).reshape(seq, -1)


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


def gelu_tanh_backward(x: Float32, grad: Float32) -> None:
    """grad *= the derivative at x, as all of these."""
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    grad *= 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope


def gelu_backward(x: Float32, grad: Float32) -> None:
    """Phi(x) + x phi(x), of the normal distribution and its density."""
    density = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    grad *= 0.5 * (1 + _erf(x * math.sqrt(0.5)).astype(x.dtype)) + x * density


def quick_gelu_backward(x: Float32, grad: Float32) -> None:
    """Of x sigmoid(1.702 x)."""
    gate = _sigmoid(1.702 * x)
    grad *= gate + 1.702 * x * gate * (1 - gate)


def silu_backward(x: Float32, grad: Float32) -> None:
    """Of x sigmoid(x)."""
    gate = _sigmoid(x)
    grad *= gate + x * gate * (1 - gate)


def relu_backward(x: Float32, grad: Float32) -> None:
    """1 above 0, else 0."""
    grad *= x > 0


BACKWARD: dict[Activation, Scaling] = {
    "gelu_new": gelu_tanh_backward,
    "gelu_pytorch_tanh": gelu_tanh_backward,
    "gelu": gelu_backward,
    "quick_gelu": quick_gelu_backward,
    "silu": silu_backward,
    "relu": relu_backward,
}
