"""A session that goes through the layers of `rbe_cli.nn` instead of the forward program."""

from collections.abc import Sequence

import numpy as np

from rbe_cli.engine.session_rows import SessionRows
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.kv_cache import KVCache
from rbe_cli.runtime.arrays import Float32, Int64


class LayerSession(SessionRows):
    """Runs a model of layers with a KV cache, by whatever kernels the model has.

    It takes any `Gpt2`, such as one that is being trained, and keeps keys and values in float32.
    """

    def __init__(self, model: Gpt2, batch: int = 1) -> None:
        """Start with empty rows; errors as of `Session`."""
        super().__init__(model.config, batch)
        self.model = model
        self.cache: KVCache = KVCache(model.config, batch)

    def prefill(self, row: int, tokens: Int64) -> Float32:
        """Append tokens to a row; as `Session.prefill`."""
        sequence = np.asarray(tokens, np.int64)[None]  # [1, n]
        with self._lock:
            return self.model.forward(sequence, self.cache, np.array([row]), last_only=True)[0]

    def decode(self, rows: Sequence[int], tokens: Int64) -> Float32:
        """Append one token to each of `rows`; as `Session.decode`."""
        column, row_ids = np.asarray(tokens, np.int64)[:, None], np.asarray(rows, np.int64)
        with self._lock:
            return self.model.forward(column, self.cache, row_ids, last_only=True)
