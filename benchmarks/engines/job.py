"""Describe the task of a worker process.

It imports little, because the start of a process is measured.
"""

import json
from typing import NamedTuple

PREFILL_TOKENS = 512
DEPTH = 32  # tokens in the cache before the first that is decoded
DECODED_TOKENS = 128
CHECKED_TOKENS = 24  # of the prompt whose logits are compared


class Job(NamedTuple):
    """Describe one task of a worker process, which takes it as JSON.

    Attributes:
        engine: a key of `peers.MODULES`.
        variant: one of the engine's.
        source: the checkpoint, as `rbe compress` takes it.
        path: of the model in the engine's form.
        output: where an array is to be written; empty if none is.
        vocab_size: of the model.
        threads: that the engine may use.
    """

    engine: str
    variant: str
    source: str
    path: str
    output: str
    vocab_size: int
    threads: int

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> "Job":
        return cls(**json.loads(text))


def some_tokens(count: int, vocab_size: int) -> list[int]:
    """Return tokens from the whole vocabulary, the same in every process."""
    return [(7919 * index + 101) % vocab_size for index in range(count)]
