"""Define sessions whose rows lie in a cache of pages, on a CPU or a GPU."""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from rbe_cli.engine.session_rows import RowLengths, SessionRows
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.token_ids import check_tokens
from rbe_cli.runtime.arrays import Float32, Int64

CHUNK_TOKENS = 256
"""Tokens that go through the layers at once: more would leave the CPU's cache."""


class RowCache(RowLengths, Protocol):
    """Say what a session needs of a cache: rows that take memory for their tokens only."""

    def add_row(self) -> int:
        """Add an empty row, and return its number."""

    def reserve(self, row: int, tokens: int) -> None:
        """Make room for `tokens` more in a row."""

    def advance(self, rows: Int64, tokens: int) -> None:
        """Count the `tokens` that were stored in each of `rows`."""

    def truncate(self, row: int, length: int) -> None:
        """Forget all but a row's first `length` tokens."""

    @property
    def position_bytes(self) -> int:
        """Bytes of one token's keys and values."""


class RowSession(SessionRows):
    """Runs a model with a cache of `batch` independent rows; a subclass says what computes.

    Several Python threads may use one session: its calls wait for each other. Two users of one
    row would mix their tokens, so each takes a row of its own. The rows below `batch` belong to
    those who name them; `borrow_rows` lends others.

    Attributes:
        cache: the rows' keys and values.
        weight_bytes: bytes of weights that decoding one token reads.
        coded_layers: layers that are decoded for every token.
    """

    cache: RowCache
    weight_bytes: int
    coded_layers: int

    def __init__(self, config: Gpt2Config, batch: int) -> None:
        """Check the number of rows; errors as of `SessionRows`."""
        super().__init__(config, batch)
        self._spare_rows: list[int] = []
        self._returned_rows: deque[int] = deque()

    @abstractmethod
    def _run(
        self, ids: Int64, rows: Int64, positions: Int64, wanted: range, is_prompt: bool
    ) -> Float32:
        """Run tokens through the model, and keep their keys and values.

        Args:
            ids, rows, positions: `[tokens]`, the tokens and where they belong in the cache,
                which has room for them.
            wanted: indices of the tokens whose logits are asked for.
            is_prompt: whether activations may be rounded as a prompt's.

        Returns:
            The logits `[len(wanted), vocab]`.
        """

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
            logits = self._run(ids, row_ids, positions, range(len(ids)), False)
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
                found.append(self._run(part, rows, positions, own, is_prompt))
                self.cache.advance(np.array([row]), len(part))
        return np.concatenate(found)
