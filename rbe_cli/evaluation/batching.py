"""Cut texts into windows, and windows into batches that fit into memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.errors import UsageError

Tokens = NDArray[np.int64]
MAX_BATCH_TOKENS = 2048
CHUNK_LOGITS = 1 << 22  # computed at once


@dataclass(frozen=True)
class Window:
    """Hold a stretch of a text, and how much of its beginning serves as context alone.

    Attributes:
        tokens: int64 `[n]`.
        skipped: predictions not counted, because an earlier window made them.
    """

    tokens: Tokens
    skipped: int = 0


def sliding_windows(sequences: Sequence[Tokens], context: int, stride: int) -> list[Window]:
    """Yield windows of `context` tokens every `stride`; no prediction is counted in two.

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


def checked_windows(
    sequences: Sequence[Tokens], n_positions: int, context: int | None, stride: int | None
) -> list[Window]:
    """Return `sliding_windows` that a model of so many positions can take.

    Args:
        sequences: token ids `[n]`.
        n_positions: the most tokens of a window.
        context: tokens of a window; None for `n_positions`.
        stride: tokens from the beginning of a window to that of the next; None for `context`.

    Raises:
        UsageError: a number lies outside its range, or there is nothing to predict.
    """
    length = n_positions if context is None else context
    if not 2 <= length <= n_positions:
        raise UsageError(
            f"`context` {length} is not between 2 and the model's {n_positions} tokens"
        )
    every = length if stride is None else stride
    if not 1 <= every <= length:
        raise UsageError(f"`stride` {every} is not between 1 and the context's {length} tokens")
    windows = sliding_windows(sequences, length, every)
    if not windows:
        raise UsageError("perplexity needs at least two tokens")
    return windows


def logit_chunks(tokens: int, vocab_size: int, most: int = CHUNK_LOGITS) -> Iterator[slice]:
    """Yield stretches of tokens that have at most so many logits, or of a single token."""
    count = max(1, most // vocab_size)
    return (slice(start, start + count) for start in range(0, tokens, count))


def batches(sequences: Iterable[Tokens], most: int = MAX_BATCH_TOKENS) -> Iterator[Tokens]:
    """Yield neighbouring sequences of equal length as arrays `[batch, length]`.

    An array has at most so many tokens, or a single sequence.
    """
    group: list[Tokens] = []
    for sequence in sequences:
        full = (len(group) + 1) * len(sequence) > most
        if group and (full or len(sequence) != len(group[0])):
            yield np.stack(group)
            group = []
        group.append(sequence)
    if group:
        yield np.stack(group)


def windows(tokens: Tokens, length: int) -> list[Tokens]:
    """Return consecutive windows of `length` tokens; a shorter one only if there is no other."""
    whole = [tokens[i : i + length] for i in range(0, len(tokens) - length + 1, length)]
    return whole or [tokens]
