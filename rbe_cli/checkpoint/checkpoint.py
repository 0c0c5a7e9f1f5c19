"""Define a checkpoint in memory: its config, its tensors read one at a time, its tokenizer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbe_cli.errors import CheckpointError
from rbe_cli.model.config import Gpt2Config

Float32 = NDArray[np.float32]


class LazyTensors(Mapping[str, Float32]):
    """Map canonical names to float32 arrays; each access reads that tensor anew.

    Raises `CheckpointError` on access if a tensor holds NaN or infinity.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Float32]]) -> None:
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> Float32:
        tensor = np.ascontiguousarray(self._readers[name](), dtype=np.float32)
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"tensor {name} holds NaN or infinite values")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


@dataclass(frozen=True)
class Checkpoint:
    """Hold a GPT-2 checkpoint, whatever its files looked like.

    Attributes:
        config: shapes and options.
        tensors: every tensor of `names.tensor_shapes(config)` with that shape, no other.
        tokenizer_json: a `tokenizer.json` for the `tokenizers` library; None if there is none.
        source: what the user asked for (`demo`, a path, `org/name@revision`).
        source_hash: `xxh3:` + 16 hex digits over the weight files' bytes.
        weight_bytes: bytes of the weights on disk; without an optimizer's state beside them.
        notes: what the user should know about the files, one sentence each.
        tokenizer_missing: why there is no tokenizer, in words; None if there is one.
    """

    config: Gpt2Config
    tensors: Mapping[str, Float32]
    tokenizer_json: bytes | None
    source: str
    source_hash: str
    weight_bytes: int
    notes: tuple[str, ...] = ()
    tokenizer_missing: str | None = None
