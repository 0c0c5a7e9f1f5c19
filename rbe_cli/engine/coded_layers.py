"""Layers that stay entropy-coded in memory, and are decoded each time they are used."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from rbe_cli.engine.address_layout import CodedLinear
from rbe_cli.runtime.addresses import address
from rbe_cli.weights.trellis_panels import TrellisPanels


class CodedLayers:
    """Decodes one layer at a time, into the records that the forward program reads."""

    def __init__(
        self, layers: NDArray[np.void], coded: Mapping[int, Mapping[str, CodedLinear]]
    ) -> None:
        """Begin with nothing decoded.

        Args:
            layers: `[n_layer]` of `LAYER`, which are changed.
            coded: number of a layer -> its entropy-coded matrices by field of `LAYER`.
        """
        self._layers = layers
        self._coded = coded

    def __len__(self) -> int:
        """Return how many layers have entropy-coded matrices."""
        return len(self._coded)

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of the layers, in ascending order."""
        yield from sorted(self._coded)

    @contextmanager
    def decoded(self, number: int, pool: ThreadPoolExecutor) -> Iterator[None]:
        """Decode a layer's matrices, for as long as the context lasts.

        Args:
            number: of the layer.
            pool: decodes several matrices at once.
        """
        own = self._coded[number]
        matrices = dict(zip(own, pool.map(_decoded, own.values()), strict=True))
        biases = []  # in use until the context ends
        for field, matrix in matrices.items():
            before = self._layers[field][number]
            record = matrix.record[0].copy()
            bias = matrix.in_panels(own[field].bias)
            biases.append(bias)
            record["bias"], record["takes_int8"] = address(bias), before["takes_int8"]
            self._layers[field][number] = record
        yield


def _decoded(linear: CodedLinear) -> TrellisPanels:
    return linear.matrix.decoded()
