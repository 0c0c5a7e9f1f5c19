"""Payloads of single tensors, changed field by field, and decoded in both ways."""

import math
import struct
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from fuzz.byte_mutations import mutated_bytes
from fuzz.draws import Draws, wrapped
from fuzz.kinds import InputKind, need
from fuzz.payload_fields import Field, fields_of
from fuzz.rbe_parts import extreme_tensors, rbe_seeds

from rbe_cli.codec.registry import CODECS
from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import PayloadError
from rbe_cli.model.tensor_names import is_embedding
from rbe_cli.weights.compressed_matrix import CompressedMatrix
from rbe_cli.weights.panel_matrix import PanelMatrix

_HALF_EDGES = (0, 0x8000, 1, 0x3FF, 0x400, 0x3C00, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0xFFFF)


class PayloadMutator:
    """Changes a payload as its codec has it: field by field, or as bytes."""

    def __init__(self) -> None:
        """Begin without knowing any payload."""
        self._fields: dict[tuple[str, bytes], list[Field]] = {}

    def __call__(self, draws: Draws, codec: str, data: bytes) -> bytes:
        """Return the payload after a change, never empty."""
        fields = self._fields_of(codec, data)
        choice = draws.below(16)
        if fields is None or choice < 2:
            return mutated_bytes(draws, data) or b"\0"
        field = draws.one_of(fields)
        if choice < 12:
            return _with_number(draws, data, field)
        if choice == 12:  # all numbers of the field alike
            value = _number(draws, field)
            return _spliced(data, field, value * field.numbers)
        if choice == 13:
            order = [_item(data, field, draws.below(field.numbers)) for _ in range(field.numbers)]
            return _spliced(data, field, b"".join(order))
        if choice == 14 and codec == "ectcq":
            return _with_words(draws, data, fields)
        return _spliced(
            data, field, draws.some_bytes(min(field.numbers * field.item, 256)), short=1
        )

    def _fields_of(self, codec: str, data: bytes) -> list[Field] | None:
        key = codec, data
        if key not in self._fields:
            if len(self._fields) > 2000:
                self._fields.clear()
            try:
                self._fields[key] = fields_of(codec, data)
            except (ValueError, struct.error):  # the payload was changed before
                return None
        return self._fields[key] or None


class PayloadKind(InputKind):
    """A payload with its codec and shape.

    The case is `[name, shape, codec, bytes]`.
    """

    name: ClassVar[str] = "rbe-payload"
    errors = (PayloadError,)
    share = 8.0

    @cached_property
    def _mutate(self) -> PayloadMutator:
        return PayloadMutator()

    def case(self, draws: Draws) -> Any:
        """Return a tensor whose bytes, shape or codec have changed."""
        tensor = draws.one_of(payload_seeds())
        name, shape, codec, data = tensor.name, tensor.shape, tensor.codec, bytes(tensor.data)
        choice = draws.below(32)
        if choice == 0:
            others = ("ectcq", "fixed", "classic", "float16", "float32")
            codec = draws.one_of(others if len(shape) == 2 else ("coded", "scalar", *others[3:]))
        elif choice == 1:
            shape = _other_shape(draws, shape)
        elif choice == 2:
            other = draws.one_of(payload_seeds())
            if len(other.shape) == len(shape):
                shape = other.shape
        else:
            data = self._mutate(draws, codec, data)
        if choice == 3:
            data = self._mutate(draws, codec, data)
        return [name, list(shape), codec, data]

    def read(self, case: Any) -> None:
        """Decode the tensor. A matrix is decoded in both ways, which must agree."""
        name, shape, codec, data = case
        tensor = StoredTensor(name, tuple(shape), codec, memoryview(data))
        values = tensor.decode()
        need(values.shape == tuple(shape), f"the shape is {values.shape}")
        need(values.dtype == np.float32, f"the type is {values.dtype}")
        need(bool(np.isfinite(values).all()), "a value is not finite")
        if len(shape) == 2:
            expected = values.T if is_embedding(name) else values
            need(_same(expected, _dense(tensor.resident())), "the two decoders differ")


def _dense(weight: Any) -> Any:
    """Return what a model computes with as float32 `[K, N]`."""
    if isinstance(weight, CompressedMatrix):
        weight = weight.decoded()
    return weight.dense() if isinstance(weight, PanelMatrix) else weight


def _same(one: Any, other: Any) -> bool:
    """Return whether two matrices are equal up to the rounding of products."""
    with np.errstate(all="ignore"):
        return bool(np.allclose(one, other, rtol=1e-5, atol=1e-30))


@lru_cache(1)
def payload_seeds() -> list[StoredTensor]:
    """Return the tensors of all seed files, each codec about as often, and extreme ones."""
    by_codec: dict[str, list[StoredTensor]] = {codec: [] for codec in CODECS}
    for data in rbe_seeds():
        for tensor in Container(memoryview(data), "seed").tensors.values():  # type: ignore[arg-type]
            by_codec[tensor.codec].append(tensor)
    for tensor in extreme_tensors():
        by_codec[tensor.codec].append(tensor)
    most = max(map(len, by_codec.values()))
    return [
        tensor
        for tensors in by_codec.values()
        for index in range(max(most // 3, len(tensors)) if tensors else 0)
        for tensor in [tensors[index % len(tensors)]]
    ]


def _other_shape(draws: Draws, shape: tuple[int, ...]) -> tuple[int, ...]:
    choice = draws.below(4)
    if choice == 0:
        return shape[::-1]
    sizes, at = list(shape), draws.below(len(shape))
    if choice == 1 and len(shape) == 2:  # as many elements
        first = draws.one_of([n for n in range(1, 65) if math.prod(shape) % n == 0])
        return first, math.prod(shape) // first
    sizes[at] = max(1, sizes[at] + draws.one_of((-32, -1, 1, 31, 1000)))
    return tuple(sizes)


def _number(draws: Draws, field: Field) -> bytes:
    if field.form == "f":
        value = draws.floating()
        value = float("inf") if abs(value) > 3.4028235e38 else value
        return struct.pack("<f", value)
    if field.form == "e":
        return wrapped(draws.one_of(_HALF_EDGES), 2)
    return wrapped(draws.integer(), field.item)


def _item(data: bytes, field: Field, index: int) -> bytes:
    start = field.start + index * field.item
    return data[start : start + field.item]


def _spliced(data: bytes, field: Field, new: bytes, short: int = 0) -> bytes:
    """Return the payload with other bytes where a field begins."""
    end = field.start + (len(new) if short else field.numbers * field.item)
    return data[: field.start] + new + data[end:]


def _with_number(draws: Draws, data: bytes, field: Field) -> bytes:
    """Return the payload with another number in a field."""
    index, item = draws.below(field.numbers), field.item
    start = field.start + index * item
    if field.form not in "fe" and draws.below(2):
        before = int.from_bytes(data[start : start + item], "little")
        new = wrapped(before + draws.one_of((-1, 1, -2, 2, 8, -8, 256)), item)
    else:
        new = _number(draws, field)
    return data[:start] + new + data[start + item :]


def _with_words(draws: Draws, data: bytes, fields: list[Field]) -> bytes:
    """Return a payload of `ectcq` whose first block has some words more or fewer."""
    counts, words = fields[4], fields[8] if len(fields) > 8 else fields[-1]
    size, change = words.numbers, draws.one_of((-2, -1, 1, 2, 16))
    if size + change < 0:
        return data
    start, end = words.start, words.start + 2 * size
    kept = data[start:end][: 2 * (size + change)]
    stream = kept + draws.some_bytes(2 * (size + change) - len(kept))
    count = wrapped(size + change, 4)
    return data[: counts.start] + count + data[counts.start + 4 : start] + stream + data[end:]
