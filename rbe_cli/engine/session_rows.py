"""What all sessions share: rows of tokens in a cache, and a lock that each call holds."""

from typing import Protocol

from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.runtime.arrays import Int64
from rbe_cli.runtime.fork_lock import ForkLock


class RowLengths(Protocol):
    """What every cache of keys and values knows.

    Attributes:
        lengths: int64 `[batch]`, tokens in each row.
    """

    lengths: Int64

    def reset(self, row: int) -> None:
        """Empty a row."""


class SessionRows:
    """Keeps rows of tokens, each with its own length.

    Attributes:
        config: of the model.
        cache: the rows' keys and values.
    """

    cache: RowLengths

    def __init__(self, config: Gpt2Config, batch: int) -> None:
        """Check the number of rows; a subclass adds the cache.

        Raises:
            UsageError: `batch` is below 1.
        """
        if batch < 1:
            raise UsageError(f"a batch of {batch} rows: at least one is needed")
        self.config = config
        self._lock = ForkLock()

    @property
    def n_positions(self) -> int:
        """Tokens a row can hold."""
        return self.config.n_positions

    @property
    def vocab_size(self) -> int:
        """Logits a token."""
        return self.config.vocab_size

    def length(self, row: int) -> int:
        """Return the number of tokens in a row."""
        return int(self.cache.lengths[row])

    def reset(self, row: int) -> None:
        """Empty a row."""
        with self._lock:
            self.cache.reset(row)
