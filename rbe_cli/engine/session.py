"""A model in use: rows of text that grow token by token."""

from collections.abc import Sequence

import numpy as np

from rbe_cli.errors import UsageError
from rbe_cli.kernels.arrays import Float32, Int64
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.kv_cache import KVCache


class Session:
    """A model with a KV cache of `batch` independent rows."""

    def __init__(self, model: Gpt2, batch: int = 1) -> None:
        """Start with empty rows.

        Raises:
            UsageError: `batch` is below 1.
        """
        if batch < 1:
            raise UsageError(f"a batch of {batch} rows: at least one is needed")
        self.model = model
        self.cache = KVCache(model.config, batch)

    @property
    def n_positions(self) -> int:
        """Tokens a row can hold."""
        return self.model.config.n_positions

    @property
    def vocab_size(self) -> int:
        """Logits a token."""
        return self.model.config.vocab_size

    def length(self, row: int) -> int:
        """Tokens in a row."""
        return int(self.cache.lengths[row])

    def reset(self, row: int) -> None:
        """Empty a row."""
        self.cache.reset(row)

    def prefill(self, row: int, tokens: Int64) -> Float32:
        """Append `tokens` `[n]` to a row; returns the logits `[vocab]` after the last one.

        Raises:
            UsageError: as `Gpt2.forward`.
        """
        sequence = np.asarray(tokens, np.int64)[None]  # [1, n]
        return self.model.forward(sequence, self.cache, np.array([row]), last_only=True)[0]

    def decode(self, rows: Sequence[int], tokens: Int64) -> Float32:
        """Append one token `[len(rows)]` to each of `rows`; returns logits `[len(rows), vocab]`.

        Raises:
            UsageError: as `Gpt2.forward`.
        """
        column = np.asarray(tokens, np.int64)[:, None]  # [len(rows), 1]
        return self.model.forward(column, self.cache, np.asarray(rows, np.int64), last_only=True)
