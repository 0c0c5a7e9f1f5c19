"""A model in use: rows of text that grow token by token."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from rbe_cli.choices import ActivationBits, KvType
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.paged_cache import PagedCache
from rbe_cli.engine.runner import CHUNK_TOKENS, Runner
from rbe_cli.engine.session_rows import SessionRows
from rbe_cli.model.token_ids import check_tokens
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime.arrays import Float32, Int64
from rbe_cli.runtime.thread_team import Team, get_team

DEFAULT_KV_TYPE: KvType = "fp16"
DEFAULT_ACTIVATION_BITS: ActivationBits = "auto"


class Session(SessionRows):
    """Runs a model by compiled programs, with a KV cache of `batch` independent rows.

    A row's logits depend neither on the other rows, nor on the number of threads; nor, where
    activations are rounded to 16 bits, on how its tokens were divided into calls.

    Several Python threads may use one session: its calls wait for each other. Two users of one
    row would mix their tokens, so each takes a row of its own. The rows below `batch` belong to
    those who name them; `borrow_rows` lends others.

    Attributes:
        cache: the rows' keys and values.
        team: the threads that compute.
        weight_bytes: bytes of weights that decoding one token reads.
        coded_layers: layers that are decoded for every token.
    """

    def __init__(
        self,
        model: LoadedModel,
        batch: int = 1,
        kv_type: KvType = DEFAULT_KV_TYPE,
        activation_bits: ActivationBits = DEFAULT_ACTIVATION_BITS,
        team: Team | None = None,
        progress: Progress = no_progress,
    ) -> None:
        """Start with empty rows.

        Args:
            model: the weights.
            batch: rows.
            kv_type: how keys and values are kept.
            activation_bits: bits that a prompt's activations are rounded to; those of other
                tokens are rounded to 16.
            team: the threads that compute; None for as many as there are physical cores.
            progress: is called while programs are compiled, if any are.

        Raises:
            UsageError: `batch` is below 1.
        """
        super().__init__(model.config, batch)
        layout = model.address_layout(activation_bits)
        self.team = team or get_team(None)
        self._runner = Runner(layout, self.team, progress)
        self.cache: PagedCache = PagedCache(model.config, batch, kv_type)
        self.weight_bytes = layout.weight_bytes
        self.coded_layers = len(layout.coded)
        self._spare_rows: list[int] = []
        self._returned_rows: deque[int] = deque()

    def truncate(self, row: int, length: int) -> None:
        """Forget all but a row's first `length` tokens."""
        with self._lock:
            self.cache.truncate(row, length)

    @contextmanager
    def borrow_rows(self, count: int) -> Iterator[list[int]]:
        """Lend `count` empty rows, for as long as the context lasts.

        They are lent to nobody else, and are none of those below `batch`. A row takes memory for
        its tokens only, and what it took serves others when it comes back.
        """
        with self._lock:
            self._collect_rows()
            while len(self._spare_rows) < count:
                self._spare_rows.append(self.cache.add_row())
            rows, self._spare_rows = self._spare_rows[:count], self._spare_rows[count:]
        try:
            yield rows
        finally:
            # The lock is not taken here: a generator that was left half-way ends in the garbage
            # collector, perhaps within a call of this thread that holds the lock.
            self._returned_rows.extend(rows)

    def _collect_rows(self) -> None:
        """Empty the rows that came back, so that they can be lent again."""
        while self._returned_rows:
            row = self._returned_rows.popleft()
            self.cache.reset(row)
            self._spare_rows.append(row)

    def prefill(self, row: int, tokens: Int64) -> Float32:
        """Append `tokens` `[n]` to a row; return the logits `[vocab]` after the last one.

        Raises:
            UsageError: as `check_tokens`.
        """
        return self._append(row, tokens, 1, is_prompt=True)[0]

    def extend(self, row: int, tokens: Int64) -> Float32:
        """Append `tokens` `[n]` to a row; return the logits `[n, vocab]` after each.

        Raises:
            UsageError: as `check_tokens`.
        """
        return self._append(row, tokens, len(tokens), is_prompt=False)

    def decode(self, rows: Sequence[int], tokens: Int64) -> Float32:
        """Append one token `[len(rows)]` to each of `rows`; return logits `[len(rows), vocab]`.

        Raises:
            UsageError: as `check_tokens`.
        """
        ids, row_ids = np.ascontiguousarray(tokens, np.int64), np.array(rows, np.int64)
        with self._lock:
            positions = self.cache.lengths[row_ids]
            check_tokens(self.config, ids[:, None], positions)
            for row in rows:
                self.cache.reserve(row, 1)
            logits = self._runner.run(self.cache, ids, row_ids, positions, range(len(ids)))
            self.cache.advance(row_ids, 1)
        return logits

    def _append(self, row: int, tokens: Int64, wanted: int, is_prompt: bool) -> Float32:
        """Append to a row; return the logits `[wanted, vocab]` after its last tokens."""
        ids = np.ascontiguousarray(tokens, np.int64)
        first = len(ids) - wanted
        found = []
        with self._lock:
            check_tokens(self.config, ids[None], self.cache.lengths[[row]])
            for start in range(0, len(ids), CHUNK_TOKENS):
                part = ids[start : start + CHUNK_TOKENS]
                self.cache.reserve(row, len(part))
                positions = np.arange(len(part)) + self.cache.lengths[row]
                own = range(max(first - start, 0), len(part))
                rows = np.full(len(part), row)
                found.append(self._runner.run(self.cache, part, rows, positions, own, is_prompt))
                self.cache.advance(np.array([row]), len(part))
        return np.concatenate(found)
