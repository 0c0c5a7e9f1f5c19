"""Compute losses over predictions, and their gradients with respect to the logits."""

import numpy as np

from rbe_cli.algebra.elementary import exp_in_place, log
from rbe_cli.runtime.arrays import Float64, Floating, Int64


def log_softmax(logits: Floating) -> Floating:
    """Return the log-probabilities of logits `[..., n]` along the last axis, of their type."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    sums = exp_in_place(shifted.copy()).sum(axis=-1, keepdims=True)
    shifted -= log(sums).astype(shifted.dtype)
    return shifted


def softmax_in_place(logits: Floating) -> Floating:
    """Turn logits `[..., n]` into probabilities along the last axis, and return them."""
    logits -= logits.max(axis=-1, keepdims=True)
    exp_in_place(logits)
    logits /= logits.sum(axis=-1, keepdims=True)
    return logits


def kl_divergence(reference: Floating, model: Floating) -> Float64:
    """Return KL(reference || model) in nats, float64 `[...]`.

    Args:
        reference, model: log-probabilities `[..., vocab]`.
    """
    terms = exp_in_place(reference.copy()) * (reference - model)
    return np.asarray(np.sum(terms, axis=-1, dtype=np.float64))


def cross_entropy(logits: Floating, targets: Int64) -> tuple[float, Floating]:
    """Return -log p(target) in nats, summed over predictions, and its gradient.

    Args:
        logits: `[..., vocab]`.
        targets: ids `[...]`; predictions of negative ones do not count.
    """
    scored = log_softmax(logits)
    counted = targets >= 0
    places = np.where(counted, targets, 0)[..., None]
    chosen = np.take_along_axis(scored, places, -1)[..., 0]
    gradient = exp_in_place(scored.copy())
    np.put_along_axis(gradient, places, np.take_along_axis(gradient, places, -1) - 1, -1)
    gradient *= counted[..., None]
    return -float(chosen[counted].sum(dtype=np.float64)), gradient


def distillation(logits: Floating, reference: Floating) -> tuple[float, Floating]:
    """Return KL(reference || model) in nats, summed over predictions, and its gradient.

    Args:
        logits: of the model, `[..., vocab]`.
        reference: log-probabilities, `[..., vocab]`.
    """
    scored = log_softmax(logits)
    divergence = float(kl_divergence(reference, scored).sum())
    return divergence, exp_in_place(scored.copy()) - exp_in_place(reference.copy())
