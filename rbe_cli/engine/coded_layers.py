"""Layers that stay entropy-coded in memory, and are decoded each time they are used."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.ectcq.unpacking import Unpacking, UnpackingMemory
from rbe_cli.engine.address_layout import CodedLinear
from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.thread_team import Team
from rbe_cli.weights.trellis_panels import TrellisPanels


class CodedLayers:
    """Decodes one layer at a time, always into the same memory.

    What a layer's records say stays true: each time, it is decoded to the same places.
    """

    def __init__(
        self,
        layers: NDArray[np.void],
        coded: Mapping[int, Mapping[str, CodedLinear]],
        team: Team,
        takes_int8: Callable[[TrellisPanels], bool],
    ) -> None:
        """Decode every layer once, to learn where its parts lie.

        Args:
            layers: `[n_layer]` of `LAYER`, which are filled.
            coded: number of a layer -> its entropy-coded matrices by field of `LAYER`.
            team: decodes.
            takes_int8: whether a prompt's activations are rounded to 8 bits for a matrix.
        """
        self._team = team
        self._takes_int8 = takes_int8
        self._unpackings: dict[int, Unpacking] = {}
        self._kept: list[object] = []  # what addresses point to
        ordered = {
            number: dict(sorted(own.items(), key=lambda item: -item[1].matrix.block_weights))
            for number, own in coded.items()
        }
        matrices = {
            number: [linear.matrix.encoded for linear in own.values()]
            for number, own in ordered.items()
        }
        if matrices:
            memory = UnpackingMemory(list(matrices.values()), team.threads)
        for number, own in ordered.items():
            self._unpackings[number] = Unpacking(matrices[number], memory)
            self.decode(number)
            for index, (field, linear) in enumerate(own.items()):
                self._fill(layers[field][number : number + 1], number, index, linear)

    def __len__(self) -> int:
        """Return how many layers have entropy-coded matrices."""
        return len(self._unpackings)

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of the layers, in ascending order."""
        yield from sorted(self._unpackings)

    def decode(self, number: int) -> None:
        """Decode a layer's matrices, in place of those of the layer before."""
        self._unpackings[number].run(self._team)

    def _fill(self, record: NDArray[np.void], number: int, index: int, linear: CodedLinear) -> None:
        """Fill the record of a matrix."""
        panels = self._unpackings[number].panels(index)
        bias = panels.in_panels(linear.bias)
        self._kept += [panels, bias]
        record[:] = panels.record
        record["bias"], record["takes_int8"] = address(bias), self._takes_int8(panels)
