"""Compute what the kernels compute in plain numpy: slow and obvious, a reference for tests.

They compute in the type of their input, float64 too.
"""

import math
from collections.abc import Callable

import numpy as np

from rbe_cli.model.config import Activation
from rbe_cli.runtime.arrays import Float64, Floating, Int64, Mask, Norm
from rbe_cli.weights.panel_matrix import PanelMatrix

_erf = np.frompyfunc(math.erf, 1, 1)


def matmul(
    x: Floating,
    matrix: PanelMatrix,
    bias: Floating,
    out: Floating,
    norm: Norm | None = None,
    activation: Activation | None = None,
) -> None:
    """Multiply as `rbe_cli.kernels.linear.linear_call.matmul` does, without rounding x."""
    if norm is not None:
        normed = np.empty_like(x)
        layer_norm(x, *norm, normed)
        x = normed
    weight = matrix.unscaled() * matrix.column_steps  # [K, N]
    out[...] = (x * matrix.row_steps) @ weight + bias
    if activation is not None:
        activate(activation, out)


def layer_norm(
    x: Floating,
    gamma: Floating,
    beta: Floating,
    eps: float,
    out: Floating,
    statistics: Float64 | None = None,
) -> None:
    """Set out = (x - mean) / sqrt(variance + eps) * gamma + beta; x and out are `[tokens, d]`.

    `statistics` `[tokens, 2]` takes the means and 1 / sqrt(variance + eps).
    """
    x = x.astype(np.result_type(x, np.float32), copy=False)  # float16 is too coarse for sums
    mean = x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    out[...] = (x - mean) * rstd * gamma + beta
    if statistics is not None:
        statistics[...] = np.concatenate([mean, rstd], axis=1)


def layer_norm_backward(
    x: Floating, statistics: Float64, gamma: Floating, grad: Floating, out: Floating
) -> tuple[Floating, Floating]:
    """Set out = rstd (g - mean(g) - x^ mean(g x^)), g = grad gamma, x^ = (x - mean(x)) rstd.

    Returns the gradients with respect to gamma and beta, `[d]`.
    """
    mean, rstd = statistics[:, :1], statistics[:, 1:]
    normalised, g = (x - mean) * rstd, grad * gamma
    grad_gamma = np.sum(grad * normalised, axis=0).astype(x.dtype)
    grad_beta = np.sum(grad, axis=0)
    along = np.mean(g * normalised, axis=-1, keepdims=True)
    out[...] = rstd * (g - g.mean(axis=-1, keepdims=True) - normalised * along)
    return grad_gamma, grad_beta


def attention(
    qkv: Floating,
    keys: Floating,
    values: Floating,
    rows: Int64,
    starts: Int64,
    scale: float,
    out: Floating,
    mask: Mask | None = None,
    weights: Floating | None = None,
) -> None:
    """Append keys and values to the cache, and attend to all positions up to each query's own.

    Args:
        qkv: `[batch, seq, 3 * d]`, queries, keys, values of the new positions.
        keys, values: the cache, `[cache_rows, heads, capacity, head_dim]`.
        rows: `[batch]`, the cache row of each sequence, no row twice.
        starts: `[batch]`, positions already in the cache; starts + seq <= capacity.
        scale: factor of the scores, commonly 1 / sqrt(head_dim).
        out: `[batch, seq, d]`.
        mask: `[batch, 1 or heads, 1 or seq, length]`, true for the positions that may be seen,
            where length is the largest of starts + seq; None for all. A query that may
            see nothing gets zeros.
        weights: `[batch, heads, seq, length]`, takes what each query attends to.
    """
    batch, seq, _ = qkv.shape
    heads, head_dim = keys.shape[1], keys.shape[3]
    for item in range(batch):
        # [seq, 3 * d] -> 3 x [heads, seq, head_dim]
        q, k, v = qkv[item].reshape(seq, 3, heads, head_dim).transpose(1, 2, 0, 3)
        start, length = int(starts[item]), int(starts[item]) + seq
        keys[rows[item], :, start:length] = k
        values[rows[item], :, start:length] = v
        past_keys = keys[rows[item], :, :length]  # [heads, length, head_dim]
        past_values = values[rows[item], :, :length]
        visible = np.arange(length) <= start + np.arange(seq)[:, None]  # [seq, length]
        own = _attention_weights(q, past_keys, scale, visible, mask, item)
        out[item] = (own @ past_values).transpose(1, 0, 2).reshape(seq, -1)
        if weights is not None:
            weights[item, ..., :length], weights[item, ..., length:] = own, 0


def _attention_weights(
    q: Floating, k: Floating, scale: float, visible: Mask, mask: Mask | None, item: int
) -> Floating:
    """Return softmax(scale q k^T) over what is visible and not masked, `[heads, seq, length]`."""
    if mask is not None:
        visible = visible & mask[item, ..., : k.shape[1]]
    scores = q.dtype.type(scale) * (q @ k.transpose(0, 2, 1))  # [heads, seq, length]
    return softmax(np.where(visible, scores, -np.inf))


def attention_backward(
    qkv: Floating,
    heads: int,
    scale: float,
    grad: Floating,
    out: Floating,
    mask: Mask | None = None,
) -> None:
    """Compute the gradient of whole sequences' attention with respect to qkv.

    Args:
        qkv: `[batch, seq, 3 * d]`, as in `attention`.
        heads: number of heads that d is divided into.
        scale: factor of the scores.
        grad: `[batch, seq, d]`, with respect to attention's output.
        out: `[batch, seq, 3 * d]`.
        mask: see `attention`.
    """
    batch, seq, _ = qkv.shape
    visible = np.tril(np.ones((seq, seq), bool))
    for item in range(batch):
        # [seq, 3 * d] -> 3 x [heads, seq, head_dim]
        q, k, v = qkv[item].reshape(seq, 3, heads, -1).transpose(1, 2, 0, 3)
        g = grad[item].reshape(seq, heads, -1).transpose(1, 0, 2)  # [heads, seq, head_dim]
        weights = _attention_weights(q, k, scale, visible, mask, item)
        grad_weights = g @ v.transpose(0, 2, 1)
        row = np.sum(weights * grad_weights, axis=-1, keepdims=True)
        grad_scores = qkv.dtype.type(scale) * weights * (grad_weights - row)
        parts = np.stack(
            [grad_scores @ k, grad_scores.transpose(0, 2, 1) @ q, weights.transpose(0, 2, 1) @ g]
        )  # [3, heads, seq, head_dim]
        out[item] = parts.transpose(2, 0, 1, 3).reshape(seq, -1)


def softmax(x: Floating) -> Floating:
    """Return the softmax over the last axis; zeros where all are -inf."""
    largest = x.max(axis=-1, keepdims=True)
    powers = np.exp(x - np.where(largest == -np.inf, 0, largest))
    total = powers.sum(axis=-1, keepdims=True)
    return powers / np.where(total == 0, 1, total)


def gelu_tanh(x: Floating) -> None:
    """Apply 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in place, as all do here."""
    x *= 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x: Floating) -> None:
    """Apply 0.5 x (1 + erf(x / sqrt(2)))."""
    x *= 0.5 * (1 + _erf(x * math.sqrt(0.5)).astype(x.dtype))


def quick_gelu(x: Floating) -> None:
    """Apply x sigmoid(1.702 x)."""
    x *= _sigmoid(1.702 * x)


def silu(x: Floating) -> None:
    """Apply x sigmoid(x)."""
    x *= _sigmoid(x)


def relu(x: Floating) -> None:
    """Apply max(x, 0)."""
    np.maximum(x, 0, out=x)


def _sigmoid(x: Floating) -> Floating:
    return 0.5 * (1 + np.tanh(0.5 * x))


_ACTIVATIONS: dict[Activation, Callable[[Floating], None]] = {
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "relu": relu,
}


def gelu_tanh_backward(x: Floating, grad: Floating) -> None:
    """Multiply grad by the derivative at x, in place, like all of these."""
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    grad *= 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope


def gelu_backward(x: Floating, grad: Floating) -> None:
    """Multiply grad by Phi(x) + x phi(x), of the normal distribution and its density."""
    density = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    grad *= 0.5 * (1 + _erf(x * math.sqrt(0.5)).astype(x.dtype)) + x * density


def quick_gelu_backward(x: Floating, grad: Floating) -> None:
    """Multiply grad by the derivative of x sigmoid(1.702 x)."""
    gate = _sigmoid(1.702 * x)
    grad *= gate + 1.702 * x * gate * (1 - gate)


def silu_backward(x: Floating, grad: Floating) -> None:
    """Multiply grad by the derivative of x sigmoid(x)."""
    gate = _sigmoid(x)
    grad *= gate + x * gate * (1 - gate)


def relu_backward(x: Floating, grad: Floating) -> None:
    """Multiply grad by 1 where x is above 0, and by 0 elsewhere."""
    grad *= x > 0


_BACKWARD: dict[Activation, Callable[[Floating, Floating], None]] = {
    "gelu_new": gelu_tanh_backward,
    "gelu_pytorch_tanh": gelu_tanh_backward,
    "gelu": gelu_backward,
    "quick_gelu": quick_gelu_backward,
    "silu": silu_backward,
    "relu": relu_backward,
}


def activate(name: Activation, x: Floating) -> None:
    """Apply an activation function in place."""
    _ACTIVATIONS[name](x)


def activate_backward(name: Activation, x: Floating, grad: Floating) -> None:
    """Multiply grad by the function's derivative at x, in place."""
    _BACKWARD[name](x, grad)
