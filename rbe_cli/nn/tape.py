"""What a forward pass leaves for the backward pass.

A block may keep all of it, or its input alone, from which the rest is computed again (gradient
checkpointing, Chen et al. 2016); either way the gradients are the same bits. What is kept lies
in memory up to a limit, and in files beyond it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from rbe_cli.runtime.arrays import Float64, Floating, Int64


@dataclass
class SavedTensors:
    """Of one block.

    Attributes:
        x: the block's input `[batch, seq, d]`.
        qkv: `[batch, seq, 3 * d]`; None, as all that follows, if it is to be computed again.
        mixed: the heads' outputs, `[batch, seq, d]`.
        middle: the sum after attention, `[batch, seq, d]`.
        hidden: before the activation function, `[batch, seq, n_inner]`; None in a feed-forward
            part that recomputes.
        statistics_1, statistics_2: of the LayerNorms' inputs, `[tokens, 2]`.
    """

    x: Floating
    qkv: Floating | None = None
    mixed: Floating | None = None
    middle: Floating | None = None
    hidden: Floating | None = None
    statistics_1: Float64 | None = None
    statistics_2: Float64 | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in vars(self).values() if array is not None)


@dataclass
class Tape:
    """A model's forward pass, recorded block by block.

    Attributes:
        checkpoint: keep the blocks' inputs alone.
        memory_limit: bytes of activations in memory; None for all.
        tokens: ids `[batch, seq]`.
        hidden: the last block's output.
        file_bytes: bytes that were written to files.
    """

    checkpoint: bool = True
    memory_limit: int | None = None
    tokens: Int64 | None = None
    hidden: Floating | None = None
    file_bytes: int = 0
    _blocks: list[SavedTensors | Path] = field(default_factory=list)
    _bytes: int = 0  # in memory
    _folder: "TemporaryDirectory[str] | None" = None

    def append(self, activations: SavedTensors) -> None:
        """Record the next block.

        Raises:
            OSError: a file cannot be written.
        """
        size = activations.nbytes
        if self.memory_limit is None or self._bytes + size <= self.memory_limit:
            self._bytes += size
            self._blocks.append(activations)
            return
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="rbe-activations-")
        path = Path(self._folder.name) / f"{len(self._blocks)}.npz"
        arrays = {name: array for name, array in vars(activations).items() if array is not None}
        np.savez(path, allow_pickle=False, **arrays)
        self.file_bytes += path.stat().st_size
        self._blocks.append(path)

    def pop(self) -> SavedTensors:
        """The last block, which is forgotten."""
        last = self._blocks.pop()
        if isinstance(last, SavedTensors):
            self._bytes -= last.nbytes
            return last
        with np.load(last, allow_pickle=False) as arrays:
            found = SavedTensors(**arrays)
        last.unlink()
        return found

    def close(self) -> None:
        """Delete what was written."""
        self._blocks.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> "Tape":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
