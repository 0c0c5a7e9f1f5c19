"""Compute the gradient of causal attention, head by head (Vaswani et al. 2017, section 3.2)."""

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.elementary import exp_in_place
from rbe_cli.kernels import numpy_twins
from rbe_cli.runtime.arrays import Float32, Mask
from rbe_cli.runtime.thread_team import Team


def attention_backward(
    team: Team,
    qkv: Float32,
    heads: int,
    scale: float,
    grad: Float32,
    out: Float32,
    mask: Mask | None = None,
) -> None:
    """Compute what `rbe_cli.kernels.numpy_twins.attention_backward` does.

    What is not float32 is left to that.
    """
    if not qkv.dtype == grad.dtype == np.float32:
        numpy_twins.attention_backward(qkv, heads, scale, grad, out, mask)
        return
    batch, seq, _ = qkv.shape
    causal = np.tril(np.ones((seq, seq), bool))
    for item in range(batch):
        # [seq, 3 * d] -> 3 x [heads, seq, head_dim]
        q, k, v = qkv[item].reshape(seq, 3, heads, -1).transpose(1, 2, 0, 3)
        g = grad[item].reshape(seq, heads, -1).transpose(1, 0, 2)  # [heads, seq, head_dim]
        visible = causal if mask is None else causal & mask[item, ..., :seq]
        scores = product(q, k.transpose(0, 2, 1), team=team)  # [heads, seq, seq]
        weights = _softmax(scores, np.float32(scale), visible)
        change = product(g, v.transpose(0, 2, 1), team=team)
        change -= np.sum(weights * change, axis=-1, keepdims=True)
        change *= weights
        change *= np.float32(scale)
        parts = out[item].reshape(seq, 3, heads, -1).transpose(1, 2, 0, 3)
        product(change, k, parts[0], team=team)
        product(change.transpose(0, 2, 1), q, parts[1], team=team)
        product(weights.transpose(0, 2, 1), g, parts[2], team=team)


def _softmax(scores: Float32, scale: np.float32, visible: NDArray[np.bool_]) -> Float32:
    """Turn scores `[heads, seq, seq]` into weights, in place; zeros where nothing is visible."""
    scores *= scale
    np.copyto(scores, np.float32(-np.inf), where=~visible)
    largest = scores.max(axis=-1, keepdims=True)
    scores -= np.where(largest == -np.inf, np.float32(0), largest)
    exp_in_place(scores)
    scores *= visible
    total = scores.sum(axis=-1, keepdims=True)
    scores /= np.where(total == 0, np.float32(1), total)
    return scores
