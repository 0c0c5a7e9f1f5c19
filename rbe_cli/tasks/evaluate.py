"""Perplexity of a model, and its KL divergence from a reference, over token sequences."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from rbe_cli.errors import UsageError
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.loss import kl_divergence, log_softmax
from rbe_cli.progress import Progress, no_progress
from rbe_cli.tasks.calibration import Tokens, batches
from rbe_cli.tasks.workers import Workers

Float32 = NDArray[np.float32]
CHUNK_LOGITS = 1 << 22  # computed at once


@dataclass(frozen=True)
class Window:
    """A stretch of a text and how much of its beginning serves as context alone.

    Attributes:
        tokens: int64 `[n]`.
        skipped: predictions not counted, because an earlier window made them.
    """

    tokens: Tokens
    skipped: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Means over all counted predictions.

    Attributes:
        predictions: how many were counted.
        loss: cross-entropy, nats a token.
        reference_loss: the reference's; None without one.
        kl_divergence: KL(reference || model), nats a token; None without a reference.
        layer_errors: relative error of each block's output, by layer; empty without one.
    """

    predictions: int
    loss: float
    reference_loss: float | None
    kl_divergence: float | None
    layer_errors: list[float]

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def reference_perplexity(self) -> float | None:
        return None if self.reference_loss is None else perplexity(self.reference_loss)


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is more than a float holds."""
    return math.inf if loss > 709 else math.exp(loss)


def sliding_windows(sequences: Sequence[Tokens], context: int, stride: int) -> list[Window]:
    """Windows of `context` tokens every `stride`; no prediction is counted in two of them.

    Each is counted in one if `stride < context`. Windows that do not overlap have no
    prediction of their first tokens.
    """
    found = []
    for tokens in sequences:
        counted = 0  # predictions of this sequence that a window counts already
        for start in range(0, max(len(tokens) - 1, 1), stride):
            window = tokens[start : start + context]
            if len(window) < 2 or start + len(window) - 1 <= counted:
                break
            found.append(Window(window, max(0, counted - start)))
            counted = start + len(window) - 1
    return found


def logit_chunks(tokens: int, vocab_size: int) -> Iterator[slice]:
    """Stretches of tokens whose logits are few enough for memory's sake."""
    count = max(1, CHUNK_LOGITS // vocab_size)
    return (slice(start, start + count) for start in range(0, tokens, count))


def _group(windows: Sequence[Window]) -> Iterator[tuple[Tokens, int]]:
    """(tokens [batch, n], skipped) of neighbouring windows alike in both."""
    start = 0
    while start < len(windows):
        skipped, length = windows[start].skipped, len(windows[start].tokens)
        end = start
        while end < len(windows) and (windows[end].skipped, len(windows[end].tokens)) == (
            skipped,
            length,
        ):
            end += 1
        for group in batches([window.tokens for window in windows[start:end]]):
            yield group, skipped
        start = end


@dataclass(frozen=True)
class _Sums:
    """Sums over one group of windows; errors and norms float64 `[n_layer]`."""

    predictions: int
    loss: float
    reference_loss: float
    divergence: float
    errors: NDArray[np.float64]
    norms: NDArray[np.float64]


def _score(model: Gpt2, reference: Gpt2 | None, tokens: Tokens, skipped: int) -> _Sums:
    """Of a batch `[batch, n]` whose first predictions are not counted."""
    targets = tokens[:, skipped + 1 :].reshape(-1)  # [predictions]
    outputs: list[Float32] = []
    expected: list[Float32] = []
    states = _hidden(model, tokens, outputs if reference else None)[:, skipped:-1]
    states = states.reshape(-1, states.shape[-1])  # [predictions, d]
    known = np.empty((0, states.shape[1]), np.float32)
    if reference:
        known = _hidden(reference, tokens, expected)[:, skipped:-1].reshape(states.shape)
    loss = reference_loss = divergence = 0.0
    for part in logit_chunks(targets.size, model.config.vocab_size):
        scored = log_softmax(model.logits(states[part]))
        loss += _cross_entropy(scored, targets[part])
        if reference:
            truth = log_softmax(reference.logits(known[part]))
            reference_loss += _cross_entropy(truth, targets[part])
            divergence += float(kl_divergence(truth, scored).sum())
    pairs = list(zip(outputs, expected, strict=True))
    errors = np.array([np.sum((ours - theirs) ** 2, dtype=np.float64) for ours, theirs in pairs])
    norms = np.array([np.sum(theirs**2, dtype=np.float64) for _, theirs in pairs])
    return _Sums(targets.size, loss, reference_loss, divergence, errors, norms)


def _hidden(model: Gpt2, tokens: Tokens, outputs: list[Float32] | None) -> Float32:
    """The last block's output; all blocks' outputs go to `outputs`."""

    def observe(name: str, values: Float32) -> None:
        if outputs is not None and not name.endswith(".weight"):
            outputs.append(values.copy())

    return model.hidden(tokens, observe=observe)


def _cross_entropy(scored: Float32, targets: Tokens) -> float:
    """Summed over predictions, of log-probabilities `[predictions, vocab]`."""
    return -float(np.take_along_axis(scored, targets[:, None], -1).sum(dtype=np.float64))


def evaluate(
    model: Gpt2,
    windows: Sequence[Window],
    workers: Workers,
    reference: Gpt2 | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score every prediction of the windows that is not skipped.

    Raises:
        UsageError: there is none, or as `Gpt2.forward`.
    """
    groups = list(_group(windows))
    sums: list[_Sums] = []
    progress("evaluating", 0, len(groups))
    tokens, skipped = [group[0] for group in groups], [group[1] for group in groups]
    for found in workers.map(_score, repeat(model), repeat(reference), tokens, skipped):
        sums.append(found)
        progress("evaluating", len(sums), len(groups))
    predictions = sum(part.predictions for part in sums)
    if predictions == 0:
        raise UsageError("there is nothing to predict: a sequence needs two tokens")
    loss = sum(part.loss for part in sums) / predictions
    if reference is None:
        return Evaluation(predictions, loss, None, None, [])
    errors = np.sum([part.errors for part in sums], axis=0)
    norms = np.sum([part.norms for part in sums], axis=0)
    return Evaluation(
        predictions,
        loss,
        sum(part.reference_loss for part in sums) / predictions,
        sum(part.divergence for part in sums) / predictions,
        np.sqrt(errors / np.maximum(norms, 1e-30)).tolist(),
    )
