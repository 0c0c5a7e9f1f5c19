"""The checks of token ids before a model computes with them."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config


def as_token_ids(given: ArrayLike) -> NDArray[np.int64]:
    """Return token ids as int64 `[n]`.

    Raises:
        UsageError: they are no whole numbers, or no sequence.
    """
    ids = np.asarray(given)
    if ids.size and (ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer)):
        raise UsageError(f"token ids are whole numbers [n], not {ids.dtype} of shape {ids.shape}")
    return ids.astype(np.int64)


def check_tokens(
    config: Gpt2Config, tokens: NDArray[np.integer[Any]], starts: NDArray[np.integer[Any]]
) -> None:
    """Refuse tokens that a model cannot compute.

    Args:
        config: of the model.
        tokens: ids `[batch, seq]`.
        starts: tokens that precede each sequence, `[batch]`.

    Raises:
        UsageError: there are no tokens, an id is outside the vocabulary, or a sequence becomes
            longer than `n_positions`.
    """
    if tokens.size == 0:
        raise UsageError("there are no tokens to compute")
    vocab = config.vocab_size
    outside = tokens[(tokens < 0) | (tokens >= vocab)]
    if outside.size:
        raise UsageError(f"token id {outside[0]} is outside the vocabulary of {vocab} tokens")
    length, limit = int(starts.max()) + tokens.shape[1], config.n_positions
    if length > limit:
        raise UsageError(f"{length} tokens are more than the model's context of {limit}")
