"""Define what all layers have in common: a name, parts, statistics and memory."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from rbe_cli.kernels.kernel_table import Kernels
from rbe_cli.nn.layer_stats import LayerStats
from rbe_cli.nn.memory_usage import MemoryUsage


class Layer:
    """Define a part of a model.

    Attributes:
        name: names the layer in messages.
        kernels: compute, and lend memory.
        stats: counts the forward passes; None counts nothing.
        backward_stats: counts the backward passes; None counts nothing.
    """

    def __init__(self, name: str, kernels: Kernels) -> None:
        self.name = name
        self.stats: LayerStats | None = None
        self.backward_stats: LayerStats | None = None
        self.kernels = kernels

    def parts(self) -> Iterator[tuple[str, "Layer"]]:
        """Yield the layers that this one consists of, in order of use, with short names."""
        yield from ()

    def layers(self) -> Iterator[tuple[str, "Layer"]]:
        """Yield all layers within this one with paths such as `attn.c_attn`, outer ones first."""
        for label, part in self.parts():
            yield label, part
            for path, inner in part.layers():
                yield f"{label}.{path}", inner

    def memory_usage(self) -> MemoryUsage:
        """Return what the parameters take; those of all parts together."""
        return sum((part.memory_usage() for _, part in self.parts()), MemoryUsage())

    def enable_stats(self) -> None:
        """Count the passes of this layer and of all layers within it from now on, from zero."""
        for layer in self._with_inner():
            layer.stats, layer.backward_stats = LayerStats(), LayerStats()

    def disable_stats(self) -> None:
        """Stop counting, and forget what was counted."""
        for layer in self._with_inner():
            layer.stats = layer.backward_stats = None

    def _with_inner(self) -> Iterator["Layer"]:
        yield self
        for _, inner in self.layers():
            yield inner

    def _counted(
        self, operations: Callable[[], int], *, backward: bool = False
    ) -> AbstractContextManager[None]:
        """Return a context within which one call is made."""
        stats = self.backward_stats if backward else self.stats
        if stats is None:
            return nullcontext()
        return stats.measured(operations(), self.kernels.buffers)
