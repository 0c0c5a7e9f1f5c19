"""Score a model over token sequences: its perplexity, and how far it is from a reference."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.stream_rotation import StreamRotation, unrotated
from rbe_cli.errors import UsageError
from rbe_cli.evaluation.batching import Tokens, Window, batches, logit_chunks
from rbe_cli.evaluation.means import Mean, mean_of
from rbe_cli.jobs.ticks import Ticks
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.token_ids import check_tokens
from rbe_cli.nn.loss import kl_divergence, log_softmax
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime.arrays import Floating, sum_of_squares

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
_GROUP_TOKENS = 1024  # of neighbouring windows that are computed together
_ROUND_TOKENS = 1 << 15  # whose states are in memory at once


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


LayerFunction = Callable[[Floating], Floating]
"""A function of states: a block, or the last LayerNorm with the head."""


class ScoredModel(Protocol):
    """Say what scoring needs of a model, on a CPU or a GPU."""

    @property
    def config(self) -> Gpt2Config:
        """Return the shapes and options."""

    @property
    def blocks(self) -> Iterable[LayerFunction]:
        """Return the blocks, which map states `[batch, n, d]`."""

    @property
    def output_layer(self) -> LayerFunction:
        """Return what maps the last block's outputs `[n, d]` to logits `[n, vocab_size]`."""

    @property
    def rotation(self) -> StreamRotation | None:
        """Return the rotation of the blocks' states; None for those of the checkpoint."""

    def embed(self, tokens: Tokens) -> Floating:
        """Return the input of the first block, `[batch, n, d]`, of tokens `[batch, n]`."""


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
        alike = [window.tokens for window in windows[start:end]]
        for group in batches(alike, _GROUP_TOKENS):
            yield group, skipped
        start = end


@dataclass(frozen=True)
class _States:
    """Hold a group's states between two layers.

    Attributes:
        own: of the model, `[batch, n, d]`.
        known: of the reference; None without one.
        errors, norms: squared, of the outputs of the layers before; empty without a reference.
    """

    own: Floating
    known: Floating | None
    errors: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Scores:
    """Hold what was found in one group of windows.

    Attributes:
        counts: predictions of each window, int64 `[windows]`.
        losses: cross-entropies, float64 `[predictions]`, window after window.
        reference_losses, divergences: alike; zeros without a reference.
        agreements: 1 where both find the same token likeliest, else 0; alike.
        errors, norms: squared, of each block's output, by layer.
    """

    counts: NDArray[np.int64]
    losses: Float64
    reference_losses: Float64
    divergences: Float64
    agreements: Float64
    errors: tuple[float, ...]
    norms: tuple[float, ...]


def _embedded(model: ScoredModel, tokens: Tokens) -> Floating:
    """Return the input of the first layer, `[batch, n, d]`."""
    check_tokens(model.config, tokens, np.zeros(len(tokens), np.int64))
    return model.embed(tokens)


def _next(
    block: LayerFunction,
    other: LayerFunction | None,
    rotations: tuple[StreamRotation | None, StreamRotation | None],
    states: _States,
) -> _States:
    """Return the outputs of a layer.

    Args:
        block, other: the layer of the model and of the reference.
        rotations: of their outputs, before these are compared.
        states: the inputs.
    """
    own = block(states.own)
    if other is None or states.known is None:
        return _States(own, None)
    known = other(states.known)
    both = unrotated(rotations[0], own), unrotated(rotations[1], known)
    error, norm = sum_of_squares(both[0] - both[1]), sum_of_squares(both[1])
    return _States(own, known, (*states.errors, error), (*states.norms, norm))


def _rotations(
    model: ScoredModel, reference: ScoredModel | None
) -> tuple[StreamRotation | None, StreamRotation | None]:
    """Return the rotations of model and reference, unless their states can be compared as is."""
    own, known = model.rotation, None if reference is None else reference.rotation
    if own is not None and known is not None and np.array_equal(own.matrix, known.matrix):
        return None, None
    return own, known


def _score(
    output_layer: LayerFunction,
    other: LayerFunction | None,
    vocab_size: int,
    tokens: Tokens,
    skipped: int,
    states: _States,
) -> _Scores:
    """Score a group of windows whose first predictions are not counted.

    Args:
        output_layer, other: of the model and of the reference.
        vocab_size: logits of a prediction.
        tokens: `[batch, n]`.
        skipped: predictions of each window that are not counted.
        states: the outputs of the last layer.
    """
    targets = tokens[:, skipped + 1 :].reshape(-1)  # [predictions]
    own = _predicting(states.own, skipped)
    known = None if states.known is None else _predicting(states.known, skipped)
    losses, reference_losses, divergences, agreements = np.zeros((4, targets.size))
    for part in _float64_chunks(targets.size, vocab_size):
        logits = output_layer(own[part])
        scored = log_softmax(logits.astype(np.float64))
        losses[part] = _cross_entropies(scored, targets[part])
        if other is not None and known is not None:
            reference_logits = other(known[part])
            truth = log_softmax(reference_logits.astype(np.float64))
            reference_losses[part] = _cross_entropies(truth, targets[part])
            divergences[part] = np.maximum(kl_divergence(truth, scored), 0.0)  # below 0 by rounding
            agreements[part] = logits.argmax(axis=-1) == reference_logits.argmax(axis=-1)
    counts = np.full(len(tokens), tokens.shape[1] - 1 - skipped)
    return _Scores(
        counts, losses, reference_losses, divergences, agreements, states.errors, states.norms
    )


def _predicting(states: Floating, skipped: int) -> Floating:
    """Return the states that predict a counted token, `[predictions, d]`."""
    return states[:, skipped:-1].reshape(-1, states.shape[-1])


def _float64_chunks(tokens: int, vocab_size: int) -> Iterator[slice]:
    """Yield chunks for log-probabilities in float64, which take twice the memory of float32.

    In float32 each would be rounded by up to some 1e-6 nats, and so would a KL divergence,
    which may be smaller than that.
    """
    return logit_chunks(tokens, 2 * vocab_size)


def _cross_entropies(scored: Floating, targets: Tokens) -> Float64:
    """Return -log p(target), float64 `[predictions]`, of `[predictions, vocab]`."""
    return np.asarray(-np.take_along_axis(scored, targets[:, None], -1)[:, 0], np.float64)


def evaluate(
    model: ScoredModel,
    windows: Sequence[Window],
    workers: Workers,
    reference: ScoredModel | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score every prediction of the windows that is not skipped.

    Raises:
        UsageError: there is none, or as `Gpt2.forward`.
    """
    groups = list(_group(windows))
    ticks = Ticks(progress, "evaluating", len(groups) * (model.config.n_layer + 1))
    scores: list[_Scores] = []
    for some in _rounds(groups):
        scores.extend(_score_round(model, reference, some, workers, ticks))
    return _summary(scores, compares=reference is not None)


def _rounds(groups: Sequence[tuple[Tokens, int]]) -> Iterator[list[tuple[Tokens, int]]]:
    """Yield groups that go through the layers together."""
    some: list[tuple[Tokens, int]] = []
    for group in groups:
        if some and sum(tokens.size for tokens, _ in [*some, group]) > _ROUND_TOKENS:
            yield some
            some = []
        some.append(group)
    if some:
        yield some


def _score_round(
    model: ScoredModel,
    reference: ScoredModel | None,
    groups: Sequence[tuple[Tokens, int]],
    workers: Workers,
    ticks: Ticks,
) -> Iterator[_Scores]:
    """Score groups layer by layer, so that no more than a layer of each model is in memory."""
    states = [
        _States(_embedded(model, tokens), _embedded(reference, tokens) if reference else None)
        for tokens, _ in groups
    ]
    others: Iterable[LayerFunction | None] = reference.blocks if reference else repeat(None)
    rotations = repeat(workers.shared(_rotations(model, reference)))
    for block, other in zip(model.blocks, others, strict=False):
        both = repeat(workers.shared(block)), repeat(workers.shared(other)), rotations
        found = workers.map(_next, *both, states)
        states = [ticks.counted(own) for own in found]
    tokens, skipped = [group[0] for group in groups], [group[1] for group in groups]
    last = workers.shared(model.output_layer)
    known = workers.shared(reference.output_layer if reference else None)
    same = repeat(last), repeat(known), repeat(model.config.vocab_size)
    for scores in workers.map(_score, *same, tokens, skipped, states):
        yield ticks.counted(scores)


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
