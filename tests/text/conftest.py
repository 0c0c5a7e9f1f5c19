"""A byte-level BPE trained on the spot, and a session whose logits follow from its cache alone."""

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_tokenizer import VOCAB_SIZE, train_tokenizer

from rbe_cli.text.tokenizer import Tokenizer

ENGLISH_6M = Path(__file__).parents[2].parent / "shared" / "data" / "english-6m"


class HashSession:
    """Logits are drawn from a hash of the cached tokens; a cache refuses to overflow."""

    def __init__(self, rows: int, n_positions: int = 64, vocab_size: int = VOCAB_SIZE) -> None:
        self.n_positions = n_positions
        self.vocab_size = vocab_size
        self.caches: list[list[int]] = [[] for _ in range(rows)]
        self.prefills: list[tuple[int, list[int]]] = []
        self.batches: list[list[int]] = []
        self.extensions: list[list[int]] = []

    def borrow_rows(self, count: int) -> AbstractContextManager[Sequence[int]]:
        return nullcontext(range(count))

    def length(self, row: int) -> int:
        return len(self.caches[row])

    def reset(self, row: int) -> None:
        self.caches[row] = []

    def prefill(self, row: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self.prefills.append((row, tokens.tolist()))
        return self._append(row, tokens.tolist())

    def decode(self, rows: Sequence[int], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self.batches.append(list(rows))
        pairs = zip(rows, tokens.tolist(), strict=True)
        return np.stack([self._append(row, [token]) for row, token in pairs])

    def extend(self, row: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        self.extensions.append(tokens.tolist())
        return np.stack([self._append(row, [token]) for token in tokens.tolist()])

    def truncate(self, row: int, length: int) -> None:
        assert length <= len(self.caches[row])
        del self.caches[row][length:]

    def _append(self, row: int, tokens: list[int]) -> NDArray[np.float32]:
        self.caches[row] += tokens
        assert len(self.caches[row]) <= self.n_positions
        return self.logits(self.caches[row])

    def logits(self, cache: list[int]) -> NDArray[np.float32]:
        """Logits [vocab] after these tokens."""
        rng = np.random.default_rng(zlib.crc32(np.array(cache, dtype=np.int64).tobytes()))
        return 3 * rng.standard_normal(self.vocab_size, dtype=np.float32)


class ScriptedSession(HashSession):
    """Goes on with `script` after a prompt of one token, whatever the tokens are."""

    def __init__(self, script: list[int], vocab_size: int = VOCAB_SIZE) -> None:
        super().__init__(rows=1, vocab_size=vocab_size)
        self.script = script

    def logits(self, cache: list[int]) -> NDArray[np.float32]:
        logits = np.zeros(self.vocab_size, dtype=np.float32)
        logits[self.script[len(cache) - 1]] = 9
        return logits


@pytest.fixture(scope="session")
def make_session() -> Callable[..., HashSession]:
    return HashSession


@pytest.fixture(scope="session")
def make_script() -> Callable[..., ScriptedSession]:
    return ScriptedSession


@pytest.fixture(scope="session")
def tokenizer_json() -> bytes:
    return train_tokenizer()


@pytest.fixture(scope="session")
def small_tokenizer(tokenizer_json: bytes) -> Tokenizer:
    return Tokenizer(tokenizer_json, VOCAB_SIZE)


@pytest.fixture(scope="session", params=["trained"] + ["english-6m"] * ENGLISH_6M.exists())
def tokenizer(request: pytest.FixtureRequest, tokenizer_json: bytes) -> Tokenizer:
    """Every tokenizer at hand: the trained one, and english-6m's where its folder exists."""
    if request.param == "trained":
        return Tokenizer(tokenizer_json, VOCAB_SIZE)
    return Tokenizer((ENGLISH_6M / "tokenizer.json").read_bytes(), 4096)
