"""Mutated `.rbe` files, read by the product and by the second reader, which must agree."""

import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from fuzz.draws import Draws
from fuzz.kinds import BrokenPromiseError, InputKind, need
from fuzz.payload_fields import fields_of
from fuzz.rbe_kinds import DamagedFileKind, HeaderKind, WholeFileKind, is_small
from oracles.second_reader import BrokenFileError, read_file

from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import BadFileError, ContainerError
from rbe_cli.runtime.arrays import Float32

_PATH = Path("case.rbe")
_CLASSIC = "classic"  # the one codec that leaves the order of sums to a reader
_TOLERANCE = 1e-10  # of its weights, relative to the largest number in the payload


class SecondReaderKind(InputKind):
    """A file of one of the other kinds, which `tests/oracles/second_reader.py` reads too.

    That reader is written from docs/FORMAT.md alone. Both must come to the same error or the
    same weights.
    """

    name: ClassVar[str] = "rbe-second"
    errors = (BadFileError,)
    share = 1.0

    def __init__(self) -> None:
        """Take cases from three kinds."""
        self._kinds = DamagedFileKind(), HeaderKind(), HeaderKind(), WholeFileKind()

    def case(self, draws: Draws) -> Any:
        """Return a file of one of the kinds."""
        return draws.one_of(self._kinds).case(draws)

    def read(self, case: Any) -> None:
        """Read the file with both, and compare what they say."""
        try:
            tensors = _tensors(case)
        except ContainerError as error:
            kind = type(error).__name__
            need(_second_verdict(case) == kind, f"one reader says {error}")
            raise
        if tensors is None:
            return
        expected = _second_verdict(case)
        if isinstance(expected, str):
            raise BrokenPromiseError(f"only the second reader says {expected}")
        need(tensors.keys() == expected.keys(), "the names differ")
        for name, (tensor, values) in tensors.items():
            need(_agree(tensor, values, expected[name]), f"the weights of {name} differ")


def _tensors(data: bytes) -> dict[str, tuple[StoredTensor, Float32]] | None:
    """Return all tensors as the package reads them; None if they are those of a large model."""
    with Container(memoryview(data), _PATH) as container:
        container.verify()
        if not is_small(container.config):
            return None
        container.tokenizer_json()
        return {name: (own, own.decode()) for name, own in container.tensors.items()}


def _second_verdict(data: bytes) -> str | dict[str, Float32]:
    """Return the tensors that the second reader reads, or the name of its error."""
    try:
        file = read_file(data)
        file.verify()
        file.tokenizer_json()
        return {name: file.tensor(name) for name in file.names}
    except BrokenFileError as error:
        return error.error


def _agree(tensor: StoredTensor, one: Float32, other: Float32) -> bool:
    """Return whether the weights are equal, as far as the codec says what they are."""
    if tensor.codec != _CLASSIC:
        return np.array_equal(one, other)
    data = bytes(tensor.data)
    largest = 0.0
    for field in fields_of(_CLASSIC, data):
        if field.form == "f":
            numbers = struct.unpack_from(f"<{field.numbers}f", data, field.start)
            largest = max(largest, *map(abs, numbers))
    return np.allclose(one, other, rtol=2.0**-22, atol=_TOLERANCE * largest)
