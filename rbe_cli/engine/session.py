"""A model in use: rows of text that grow token by token."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from rbe_cli.engine.model_plan import CHUNK_TOKENS, ModelPlan
from rbe_cli.engine.paged_cache import PagedCache
from rbe_cli.errors import UsageError
from rbe_cli.kernels.kernel_records import Activations, KvType
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.nn.kv_cache import KVCache
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime.arrays import Float32, Int64
from rbe_cli.runtime.thread_team import Team

DEFAULT_KV_TYPE: KvType = "fp16"
DEFAULT_ACTIVATIONS: Activations = "auto"


class _Rows:
    """What sessions share: a model, a cache of rows, and a lock that each call holds."""

    model: Gpt2
    cache: PagedCache | KVCache
    _lock: threading.Lock

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
        with self._lock:
            self.cache.reset(row)


class Session(_Rows):
    """A model with a KV cache of `batch` independent rows, run by compiled programs.

    A row's logits depend neither on the other rows, nor on the number of threads; nor, where
    activations are rounded to 16 bits, on how its tokens were divided into calls.

    Several Python threads may use one session: its calls wait for each other. Two users of one
    row would mix their tokens, so each takes a row of its own. The rows below `batch` belong to
    those who name them; `borrow_rows` lends others.
    """

    def __init__(
        self,
        model: Gpt2,
        batch: int = 1,
        kv_type: KvType = DEFAULT_KV_TYPE,
        activations: Activations = DEFAULT_ACTIVATIONS,
        progress: Progress = no_progress,
    ) -> None:
        """Start with empty rows.

        Args:
            model: with `fast` kernels.
            batch: rows.
            kv_type: how keys and values are kept.
            activations: how a prompt's activations are rounded; those of other tokens to 16 bits.
            progress: hears of compilation, if there is any.

        Raises:
            UsageError: `batch` is below 1, or the model's kernels are not compiled.
        """
        _check_batch(batch)
        team = model.kernels.team
        if team is None:
            raise UsageError("a Session needs a model with compiled kernels (engine fast)")
        self.model = model
        self._lock = threading.Lock()
        self._spare_rows: list[int] = []
        self._returned_rows: deque[int] = deque()
        self.cache: PagedCache = PagedCache(model.config, batch, kv_type)
        self._plan = ModelPlan(model, team, activations, progress)

    @property
    def team(self) -> Team:
        """The threads that compute."""
        return self._plan.team

    @property
    def coded_layers(self) -> int:
        """Layers that are decoded for every token."""
        return self._plan.coded_layers

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
        """Append `tokens` `[n]` to a row; returns the logits `[vocab]` after the last one.

        Raises:
            UsageError: as `Gpt2.forward`.
        """
        return self._append(row, tokens, 1, is_prompt=True)[0]

    def extend(self, row: int, tokens: Int64) -> Float32:
        """Append `tokens` `[n]` to a row; returns the logits `[n, vocab]` after each.

        Raises:
            UsageError: as `Gpt2.forward`.
        """
        return self._append(row, tokens, len(tokens), is_prompt=False)

    def decode(self, rows: Sequence[int], tokens: Int64) -> Float32:
        """Append one token `[len(rows)]` to each of `rows`; returns logits `[len(rows), vocab]`.

        Raises:
            UsageError: as `Gpt2.forward`.
        """
        ids, row_ids = np.ascontiguousarray(tokens, np.int64), np.array(rows, np.int64)
        with self._lock:
            positions = self.cache.lengths[row_ids]
            self.model.check(ids[:, None], positions)
            for row in rows:
                self.cache.reserve(row, 1)
            logits = self._plan.run(self.cache, ids, row_ids, positions, range(len(ids)))
            self.cache.advance(row_ids, 1)
        return logits

    def _append(self, row: int, tokens: Int64, wanted: int, is_prompt: bool) -> Float32:
        """Append to a row; returns the logits `[wanted, vocab]` after its last tokens."""
        ids = np.ascontiguousarray(tokens, np.int64)
        first = len(ids) - wanted
        found = []
        with self._lock:
            self.model.check(ids[None], self.cache.lengths[[row]])
            for start in range(0, len(ids), CHUNK_TOKENS):
                part = ids[start : start + CHUNK_TOKENS]
                self.cache.reserve(row, len(part))
                positions = np.arange(len(part)) + self.cache.lengths[row]
                own = range(max(first - start, 0), len(part))
                rows = np.full(len(part), row)
                found.append(self._plan.run(self.cache, part, rows, positions, own, is_prompt))
                self.cache.advance(np.array([row]), len(part))
        return np.concatenate(found)


class ReferenceSession(_Rows):
    """The same through the layers of `rbe_cli.nn`, with any kernels and keys in float32."""

    def __init__(self, model: Gpt2, batch: int = 1) -> None:
        """Start with empty rows; raises as `Session`."""
        _check_batch(batch)
        self.model = model
        self._lock = threading.Lock()
        self.cache: KVCache = KVCache(model.config, batch)

    def prefill(self, row: int, tokens: Int64) -> Float32:
        """As `Session.prefill`."""
        sequence = np.asarray(tokens, np.int64)[None]  # [1, n]
        with self._lock:
            return self.model.forward(sequence, self.cache, np.array([row]), last_only=True)[0]

    def decode(self, rows: Sequence[int], tokens: Int64) -> Float32:
        """As `Session.decode`."""
        column, row_ids = np.asarray(tokens, np.int64)[:, None], np.asarray(rows, np.int64)
        with self._lock:
            return self.model.forward(column, self.cache, row_ids, last_only=True)


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise UsageError(f"a batch of {batch} rows: at least one is needed")
