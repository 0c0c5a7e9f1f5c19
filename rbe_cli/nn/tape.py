"""Record what a forward pass leaves for the backward pass.

A block may keep all of it, or its input alone, from which the rest is computed again (gradient
checkpointing, Chen et al. 2016); either way the gradients are the same bits. What is kept lies
in memory up to a limit, and in files beyond it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rbe_cli.errors import UsageError
from rbe_cli.runtime.arrays import Float64, Floating, Int64


@dataclass
class SavedTensors:
    """Hold what one block leaves; of this class itself, the rest is to be computed again.

    Attributes:
        x: the block's input `[batch, seq, d]`.
    """

    x: Floating

    @property
    def nbytes(self) -> int:
        """Return the bytes of all arrays."""
        return sum(array.nbytes for array in vars(self).values() if array is not None)


@dataclass
class AllSavedTensors(SavedTensors):
    """Hold all that the backward pass of one block needs.

    Attributes:
        qkv: queries, keys and values, `[batch, seq, 3 * d]`.
        attended: the heads' outputs, `[batch, seq, d]`.
        middle: the sum after attention, `[batch, seq, d]`.
        hidden: before the activation function, `[batch, seq, n_inner]`; None in a feed-forward
            part that recomputes.
        statistics_1, statistics_2: of the LayerNorms' inputs, `[tokens, 2]`.
    """

    qkv: Floating
    attended: Floating
    middle: Floating
    hidden: Floating | None
    statistics_1: Float64
    statistics_2: Float64


@dataclass
class Tape:
    """Record a model's forward pass, block by block.

    Attributes:
        checkpoint: keep the blocks' inputs alone.
        memory_limit: bytes of saved tensors in memory; None for all.
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

    def append(self, saved: SavedTensors) -> None:
        """Record the next block.

        Raises:
            OSError: a file cannot be written.
        """
        size = saved.nbytes
        if self.memory_limit is None or self._bytes + size <= self.memory_limit:
            self._bytes += size
            self._blocks.append(saved)
            return
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="rbe-tape-")
        path = Path(self._folder.name) / f"{len(self._blocks)}.npz"
        arrays = {name: array for name, array in vars(saved).items() if array is not None}
        np.savez(path, allow_pickle=False, **arrays)
        self.file_bytes += path.stat().st_size
        self._blocks.append(path)

    def pop(self) -> SavedTensors:
        """Return what the last block saved, and forget it.

        Raises:
            UsageError: nothing is recorded any more.
        """
        if not self._blocks:
            raise UsageError("the tape holds no recorded block")
        last = self._blocks.pop()
        if isinstance(last, SavedTensors):
            self._bytes -= last.nbytes
            return last
        with np.load(last, allow_pickle=False) as arrays:
            found: dict[str, Any] = {"hidden": None} | dict(arrays)
        last.unlink()
        return AllSavedTensors(**found) if "qkv" in found else SavedTensors(found["x"])

    def outcome(self) -> tuple[Int64, Floating]:
        """Return the ids and the last block's output of the forward pass.

        Raises:
            UsageError: none was recorded.
        """
        if self.tokens is None or self.hidden is None:
            raise UsageError("the tape holds no forward pass: call record before backward")
        return self.tokens, self.hidden

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
