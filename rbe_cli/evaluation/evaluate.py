"""Score a model over token sequences: its perplexity, and how far it is from a reference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from rbe_cli.errors import UsageError
from rbe_cli.evaluation.batching import Tokens, Window, batches, logit_chunks
from rbe_cli.evaluation.means import Mean, mean_of
from rbe_cli.jobs.workers import Workers
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.loss import kl_divergence, log_softmax
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime.arrays import Floating, sum_of_squares

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Say how far a model is from its reference on the same predictions.

    Attributes:
        reference_loss: cross-entropy of the reference, nats a token.
        loss_increase: cross-entropy of the model less that of the reference, nats a token.
        kl_divergence: KL(reference || model), nats a token.
        kl_divergence_p99: the 99th percentile of the tokens' KL divergences, interpolated.
        kl_divergence_max: the largest KL divergence of a token.
        top_1_agreement: how often both find the same token likeliest, from 0 to 1.
        layer_errors: relative error of each block's output, by layer.
    """

    reference_loss: Mean
    loss_increase: Mean
    kl_divergence: Mean
    kl_divergence_p99: float
    kl_divergence_max: float
    top_1_agreement: Mean
    layer_errors: list[float]


@dataclass(frozen=True)
class Evaluation:
    """Hold the scores of a model on some windows.

    Attributes:
        predictions: number of predictions that were counted.
        windows: in how many windows.
        loss: cross-entropy, nats a token.
        comparison: with the reference; None without one.
    """

    predictions: int
    windows: int
    loss: Mean
    comparison: Comparison | None

    def compared(self) -> Comparison:
        """Return the comparison with the reference.

        Raises:
            UsageError: there was no reference.
        """
        if self.comparison is None:
            raise UsageError("the evaluation has no reference to compare with")
        return self.comparison


def _group(windows: Sequence[Window]) -> Iterator[tuple[Tokens, int]]:
    """Return (tokens `[batch, n]`, skipped) of neighbouring windows that are alike in both."""
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
class _Scores:
    """Hold what was found in one group of windows.

    Attributes:
        counts: predictions of each window, int64 `[windows]`.
        losses: cross-entropies, float64 `[predictions]`, window after window.
        reference_losses, divergences: alike; zeros without a reference.
        agreements: 1 where both find the same token likeliest, else 0; alike.
        errors, norms: squared, of each block's output, float64 `[n_layer]`.
    """

    counts: NDArray[np.int64]
    losses: Float64
    reference_losses: Float64
    divergences: Float64
    agreements: Float64
    errors: Float64
    norms: Float64


def _score(model: Gpt2, reference: Gpt2 | None, tokens: Tokens, skipped: int) -> _Scores:
    """Score a batch `[batch, n]` of windows whose first predictions are not counted."""
    targets = tokens[:, skipped + 1 :].reshape(-1)  # [predictions]
    outputs: list[Float32] = []
    expected: list[Float32] = []
    states = _hidden(model, tokens, outputs if reference else None)[:, skipped:-1]
    states = states.reshape(-1, states.shape[-1])  # [predictions, d]
    known = np.empty((0, 0), np.float32)
    if reference:
        known = _hidden(reference, tokens, expected)[:, skipped:-1]
        known = known.reshape(-1, known.shape[-1])
    losses, reference_losses, divergences, agreements = np.zeros((4, targets.size))
    for part in _float64_chunks(targets.size, model.config.vocab_size):
        logits = model.logits(states[part])
        scored = log_softmax(logits.astype(np.float64))
        losses[part] = _cross_entropies(scored, targets[part])
        if reference:
            reference_logits = reference.logits(known[part])
            truth = log_softmax(reference_logits.astype(np.float64))
            reference_losses[part] = _cross_entropies(truth, targets[part])
            divergences[part] = np.maximum(kl_divergence(truth, scored), 0.0)  # below 0 by rounding
            agreements[part] = logits.argmax(axis=-1) == reference_logits.argmax(axis=-1)
    pairs = list(zip(outputs, expected, strict=True))
    return _Scores(
        np.full(len(tokens), tokens.shape[1] - 1 - skipped),
        losses,
        reference_losses,
        divergences,
        agreements,
        errors=np.array([sum_of_squares(x - y) for x, y in pairs]),
        norms=np.array([sum_of_squares(y) for _, y in pairs]),
    )


def _float64_chunks(tokens: int, vocab_size: int) -> Iterator[slice]:
    """Yield chunks for log-probabilities in float64, which take twice the memory of float32.

    In float32 each would be rounded by up to some 1e-6 nats, and so would a KL divergence,
    which may be smaller than that.
    """
    return logit_chunks(tokens, 2 * vocab_size)


def _hidden(model: Gpt2, tokens: Tokens, outputs: list[Float32] | None) -> Float32:
    """Return the last block's output, and put all blocks' outputs into `outputs`."""

    def observe(name: str, values: Float32) -> None:
        if outputs is not None and not name.endswith(".weight"):
            outputs.append(values.copy())

    return model.hidden(tokens, observe=observe)


def _cross_entropies(scored: Floating, targets: Tokens) -> Float64:
    """Return -log p(target), float64 `[predictions]`, of `[predictions, vocab]`."""
    return np.asarray(-np.take_along_axis(scored, targets[:, None], -1)[:, 0], np.float64)


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
    scores: list[_Scores] = []
    progress("evaluating", 0, len(groups))
    tokens, skipped = [group[0] for group in groups], [group[1] for group in groups]
    for found in workers.map(_score, repeat(model), repeat(reference), tokens, skipped):
        scores.append(found)
        progress("evaluating", len(scores), len(groups))
    return _summary(scores, compares=reference is not None)


def _summary(scores: Sequence[_Scores], *, compares: bool) -> Evaluation:
    """Return means and extremes over all groups."""
    counts = np.array([n for part in scores for n in part.counts if n > 0], np.int64)
    if counts.size == 0:
        raise UsageError("there is nothing to predict: a sequence needs two tokens")
    losses = np.concatenate([part.losses for part in scores])
    comparison = _compare(scores, losses, counts) if compares else None
    return Evaluation(losses.size, counts.size, mean_of(losses, counts), comparison)


def _compare(scores: Sequence[_Scores], losses: Float64, counts: NDArray[np.int64]) -> Comparison:
    reference_losses = np.concatenate([part.reference_losses for part in scores])
    divergences = np.concatenate([part.divergences for part in scores])
    agreements = np.concatenate([part.agreements for part in scores])
    squares = np.sum([part.errors for part in scores], axis=0)
    norms = np.sum([part.norms for part in scores], axis=0)
    return Comparison(
        reference_loss=mean_of(reference_losses, counts),
        loss_increase=mean_of(losses - reference_losses, counts),
        kl_divergence=mean_of(divergences, counts),
        kl_divergence_p99=float(np.quantile(divergences, 0.99)),
        kl_divergence_max=float(divergences.max()),
        top_1_agreement=mean_of(agreements, counts),
        layer_errors=np.sqrt(squares / np.maximum(norms, 1e-30)).tolist(),
    )
