"""Compute a model whose layers do not fit into memory together."""

from collections.abc import Callable, Sequence
from typing import overload

from rbe_cli.nn.transformer_block import TransformerBlock


class StreamedBlocks(Sequence[TransformerBlock]):
    """Build each block when it is asked for, and keep none."""

    def __init__(self, count: int, build: Callable[[int], TransformerBlock]) -> None:
        """Set the number of blocks, and the function that builds one from its number."""
        self._numbers = range(count)
        self._build = build

    @overload
    def __getitem__(self, index: int) -> TransformerBlock: ...

    @overload
    def __getitem__(self, index: slice) -> "StreamedBlocks": ...

    def __getitem__(self, index: int | slice) -> "TransformerBlock | StreamedBlocks":
        if isinstance(index, slice):
            numbers = self._numbers[index]
            return StreamedBlocks(len(numbers), lambda place: self._build(numbers[place]))
        return self._build(self._numbers[index])

    def __len__(self) -> int:
        return len(self._numbers)
