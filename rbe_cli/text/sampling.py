"""Sampling: from logits to one token, by small pure functions that are composed in a fixed order.

A filter takes logits `[n]` and returns the indices it keeps, ascending, so the next one works on
what is left. Among equal logits the lowest token id is kept: results do not depend on a sort.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import log

import numpy as np
from numpy.typing import NDArray

from rbe_cli.algebra.elementary import exp_in_place
from rbe_cli.errors import RbeError
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.row_random import RowRandom

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Indices = NDArray[np.intp]
Sampler = Callable[[Float32, Sequence[int], RowRandom], int]

_STRETCH = 256  # weights that are added up before one of them is looked for
_STRIDES = 16  # logits that share one maximum in top_k: few enough maxima, up to k = vocab / 16


def penalize_repetition(logits: Float32, recent: Sequence[int], penalty: float) -> Float32:
    """Apply CTRL's penalty (Keskar et al., 2019, 4.1) to every token in `recent`, once each.

    Positive logits are divided by `penalty`. Negative ones are multiplied, as Hugging Face and
    llama.cpp do: the paper's division would make them likelier.
    """
    tokens = np.unique(np.asarray(recent, dtype=np.intp))
    seen = logits[tokens]
    penalized = logits.copy()
    with np.errstate(over="ignore"):  # make_sampler refuses what is no longer finite
        penalized[tokens] = np.where(seen > 0, seen / penalty, seen * penalty)
    return penalized


def top_k(logits: Float32, k: int) -> Indices:
    """Keep the `k` largest logits (Fan et al., 2018)."""
    if k >= logits.size:
        return np.arange(logits.size)
    # The k-th largest of many maxima bounds the k-th largest logit from below, and leaves few
    # candidates: much faster than selecting among all.
    maxima = logits[: logits.size // _STRIDES * _STRIDES].reshape(_STRIDES, -1).max(axis=0)
    if k > maxima.size:
        return _largest(logits, k)
    candidates = np.flatnonzero(logits >= np.partition(maxima, -k)[-k])
    return candidates[_largest(logits[candidates], k)]


def top_p(logits: Float32, p: float) -> Indices:
    """Keep the fewest tokens whose probability reaches `p`: the nucleus (Holtzman et al., 2020)."""
    probabilities = softmax(logits)
    # Tokens below (1 - p) / n add up to less than 1 - p, so the nucleus has none of them and they
    # need no sorting; half of that bound leaves room for rounding.
    candidates = np.flatnonzero(probabilities >= (1 - p) / (2 * logits.size))
    cumulative = np.cumsum(np.sort(probabilities[candidates])[::-1])
    count = min(int(np.searchsorted(cumulative, p)) + 1, candidates.size)
    return candidates[_largest(logits[candidates], count)]


def min_p(logits: Float32, p: float) -> Indices:
    """Keep tokens at least `p` times as likely as the likeliest (Nguyen et al., 2024)."""
    return np.flatnonzero(logits >= logits.max() + log(p))


def _largest(values: Float32, count: int) -> Indices:
    """Return the indices, ascending, of the `count` largest values; of equal ones the lowest."""
    smallest = np.partition(values, -count)[-count]
    above = np.flatnonzero(values > smallest)
    equal = np.flatnonzero(values == smallest)[: count - above.size]
    return np.sort(np.concatenate([above, equal]))


def apply_temperature(logits: Float32, temperature: float) -> Float64:
    """Return logits over a temperature above 0, shifted so that the largest is 0."""
    shifted = logits.astype(np.float64) - logits.max()
    with np.errstate(over="ignore"):  # a tiny temperature leaves -inf: greedy, its limit
        return shifted / temperature


def softmax(logits: Float32 | Float64) -> Float64:
    """Return probabilities `[n]`, stable for any logits whose maximum is finite."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return exponentials / exponentials.sum()


def sample(probabilities: Float64, rng: RowRandom) -> int:
    """Draw an index by inverting the cumulative distribution, with one random number a call."""
    cumulative = np.cumsum(probabilities)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def sample_rows(logits: Float32, rng: "np.random.Generator") -> Indices:
    """Draw a token for each row of `[rows, vocab]` at temperature 1; overwrite the logits."""
    with np.errstate(invalid="ignore"):  # of infinite logits
        logits -= logits.max(axis=-1, keepdims=True)
        return draw_rows(exp_in_place(logits), rng)


def draw_rows(weights: Float32, rng: "np.random.Generator") -> Indices:
    """Draw an index for each row of `[rows, n]`, with probabilities in proportion to weights.

    The cumulative distribution is inverted, first that of stretches and then that within one.
    """
    starts = np.arange(0, weights.shape[1], _STRETCH)
    sums = np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1, dtype=np.float64)
    drawn = rng.random(len(weights)) * sums[:, -1]
    found = np.empty(len(weights), np.intp)
    for row, (own, ends, level) in enumerate(zip(weights, sums, drawn, strict=True)):
        stretch = min(int(np.searchsorted(ends, level, side="right")), len(starts) - 1)
        first = starts[stretch]
        inner = np.cumsum(own[first : first + _STRETCH], dtype=np.float64)
        # The sum of a stretch is rounded, so that the level may be past its end.
        level = min(level - (ends[stretch - 1] if stretch else 0.0), np.nextafter(inner[-1], 0.0))
        found[row] = first + min(int(np.searchsorted(inner, level, side="right")), len(inner) - 1)
    return found


def make_sampler(options: GenerationOptions) -> Sampler:
    """Compose a sampler `(logits [vocab], history, rng) -> token`.

    The order is that of llama.cpp: repetition penalty, top-k, top-p, min-p, temperature, draw.
    (Hugging Face applies the temperature before the filters.) So the filters judge the model's
    own distribution, and a high temperature does not bring back tokens that they removed.

    Raises:
        RbeError: from the sampler, when the largest logit is not finite.
    """
    filters: list[Callable[[Float32], Indices]] = []
    if options.top_k > 0:
        filters.append(partial(top_k, k=options.top_k))
    if options.top_p < 1:
        filters.append(partial(top_p, p=options.top_p))
    if options.min_p > 0:
        filters.append(partial(min_p, p=options.min_p))

    def next_token(logits: Float32, history: Sequence[int], rng: RowRandom) -> int:
        if options.repetition_penalty != 1:
            recent = history[-options.repetition_window :]
            logits = penalize_repetition(logits, recent, options.repetition_penalty)
        if not np.isfinite(logits.max()):  # a NaN anywhere makes the maximum NaN
            raise RbeError("the model's logits are not finite, so no token can be chosen")
        if options.greedy or options.temperature == 0:
            return int(logits.argmax())
        tokens = np.arange(logits.size)
        for keep in filters:
            kept = keep(logits)
            tokens, logits = tokens[kept], logits[kept]
        return int(tokens[sample(softmax(apply_temperature(logits, options.temperature)), rng)])

    return next_token
