"""safetensors files: headers changed as JSON, and as bytes."""

import json
import struct
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from fuzz.byte_mutations import mutated_bytes
from fuzz.draws import Draws
from fuzz.kinds import InputKind, need
from fuzz.scratch import SCRATCH
from fuzz.tree_mutations import TreeMutator

from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES, CheckpointTensor
from rbe_cli.checkpoint.safetensors_file import list_safetensors
from rbe_cli.errors import BadFileError, NotFoundError

_TYPES = (
    *("F64", "F32", "F16", "BF16", "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"),
    *("F8_E4M3", "F8_E5M2", "F8_E8M0", "C64", "F4", "F32 "),
)
MOST_READ = 1 << 20  # elements of a tensor that is read


class SafetensorsKind(InputKind):
    """A safetensors file."""

    name: ClassVar[str] = "safetensors"
    errors = (BadFileError, NotFoundError)
    share = 5.0

    @cached_property
    def _seeds(self) -> list[tuple[dict[str, Any], bytes]]:
        shapes: dict[str, tuple[str, list[int]]] = {
            "wte.weight": ("F32", [5, 4]),
            "h.0.ln_1.bias": ("F16", [4]),
            "h.0.attn.bias": ("BOOL", [1, 1, 2, 2]),
            "wpe.weight": ("BF16", [2, 4]),
            "x": ("F64", []),
        }
        whole = _header(shapes)
        one, none = _header({"wpe.weight": ("F32", [3, 4])}), _header({})
        named = {"__metadata__": {"format": "pt"}, **whole}
        return [(own, _data(own)) for own in (whole, named, one, none)]

    @cached_property
    def _mutate(self) -> TreeMutator:
        words = ("dtype", "shape", "data_offsets", "__metadata__", "wte.weight", *_TYPES)
        return TreeMutator(words)

    def case(self, draws: Draws) -> Any:
        """Return a file whose header, length or data have changed."""
        header, data = draws.one_of(self._seeds)
        tree: Any = header
        choice = draws.below(16)
        if choice < 3 and len(header) > 1:
            tree = _with_moved_bytes(draws, header)
        if choice != 0:
            for _ in range(1 + (draws.below(4) == 0)):
                tree = self._mutate(draws, tree)
        try:
            text = json.dumps(tree).encode()
        except TypeError:  # bytes
            text = json.dumps(tree, default=str).encode()
        if choice == 13:
            text = mutated_bytes(draws, text)
        if choice == 14:
            data = mutated_bytes(draws, data)
        size = draws.integer() % (1 << 64) if choice == 15 else len(text)
        return struct.pack("<Q", size) + text + data

    def read(self, case: Any) -> None:
        """List the tensors, and read each."""
        path = SCRATCH.write("model.safetensors", case)
        tensors = list_safetensors(path)
        stored = sum(check_tensor(own) for own in tensors.values())
        need(stored <= len(case), "the tensors hold more than the file")


def check_tensor(tensor: CheckpointTensor) -> int:
    """Read a tensor if it is small, and return the bytes that are read."""
    if tensor.dtype not in RAW_TYPES:
        return 0
    count = int(np.prod(tensor.shape, dtype=object))
    if count > MOST_READ:
        return 0
    values = tensor.read()
    need(values.shape == tuple(tensor.shape), f"the shape is {values.shape}")
    need(values.dtype == np.float32, f"the type is {values.dtype}")
    return count * RAW_TYPES[tensor.dtype].itemsize


def _header(shapes: dict[str, tuple[str, list[int]]]) -> dict[str, Any]:
    sizes, header, position = {"F32": 4, "F16": 2, "BF16": 2, "BOOL": 1, "F64": 8}, {}, 0
    for name, (dtype, shape) in shapes.items():
        end = position + sizes[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    return header


def _data(header: dict[str, Any]) -> bytes:
    end = max((own["data_offsets"][1] for own in header.values() if "dtype" in own), default=0)
    return bytes(range(end % 256)) + bytes(end - end % 256)


def _with_moved_bytes(draws: Draws, header: dict[str, Any]) -> dict[str, Any]:
    """Return a header in which the border between two tensors has moved, or they changed places."""
    names = [name for name in header if name != "__metadata__"]
    at = draws.below(len(names) - 1)
    first, second = (json.loads(json.dumps(header[own])) for own in names[at : at + 2])
    if draws.below(2):
        change = draws.one_of((-4, -1, 1, 4))
        first["data_offsets"][1] += change
        second["data_offsets"][0] += change
    else:
        first["data_offsets"], second["data_offsets"] = (
            second["data_offsets"],
            first["data_offsets"],
        )
    return {**header, names[at]: first, names[at + 1]: second}
