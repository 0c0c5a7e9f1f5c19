"""Writes files as `torch.save` does, opcode by opcode, and lists what is read of them."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rbe_cli.checkpoint.checkpoint_tensor import CheckpointTensor
from rbe_cli.checkpoint.torch_files.torch_file import read_torch_file

# Written by a real torch.save, see checkpoint/fixtures/make_torch_fixture.py.
GOLDEN = Path(__file__).parent / "checkpoint" / "fixtures" / "torch_state_dict.bin"
LEGACY_GOLDEN = GOLDEN.with_name("torch_legacy.bin")


def listed(path: Path) -> dict[str, CheckpointTensor]:
    return dict(read_torch_file(path).tensors)


def encode(value: Any) -> bytes:
    """Pickle opcodes of a value; bytes are opcodes already."""
    match value:
        case bytes():
            return value
        case str():
            return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            digits = pickle.encode_long(value)
            return b"\x8a" + bytes([len(digits)]) + digits
        case tuple():
            return b"(" + b"".join(map(encode, value)) + b"t"
        case dict():
            items = b"".join(encode(key) + encode(item) for key, item in value.items())
            return b"}(" + items + b"u"
    raise TypeError(value)


def call(module: str, name: str, *arguments: Any) -> bytes:
    return f"c{module}\n{name}\n".encode() + encode(arguments) + b"R"


def tensor(
    shape: tuple[Any, ...] = (4,),
    stride: tuple[Any, ...] = (1,),
    offset: Any = 0,
    size: Any = 4,
    key: Any = "0",
    kind: str = "FloatStorage",
) -> bytes:
    """A tensor as `torch.save` pickles it."""
    storage = encode(("storage", f"ctorch\n{kind}\n".encode(), key, "cpu", size)) + b"Q"
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, stride, False, hooks)


FOUR = {"data/0": np.arange(4, dtype="<f4").tobytes()}


def legacy_tensor(
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    key: str = "7",
    view: Any = b"N",
) -> bytes:
    """A tensor as `torch.save` pickled it before PyTorch 1.6."""
    storage_type = b"ctorch\nFloatStorage\n"
    storage = encode(("storage", storage_type, key, "cpu", 4, view)) + b"Q"
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, stride, False, hooks)


def write_archive(
    path: Path,
    state: Any,
    members: Mapping[str, bytes] = FOUR,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + encode(state) + b".")
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return path


def write_legacy(
    path: Path, state: Any, storages: Mapping[str, bytes], *, protocol: int = 2, **changes: Any
) -> Path:
    """Write what `torch.save` wrote before PyTorch 1.6; values of bytes are opcodes already."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    header = {"magic": 0x1950A86A20F9469CFC6C, "version": 1001, "machine": machine} | changes
    keys = header.pop("keys", sorted(storages))
    pickles = [pickle.dumps(value, protocol=protocol) for value in header.values()]
    pickles += [b"\x80\x02" + encode(state) + b".", pickle.dumps(keys, protocol=protocol)]
    items = [(len(own) // 4).to_bytes(8, "little") + own for own in storages.values()]
    path.write_bytes(b"".join([*pickles, *items]))
    return path


LEGACY_FOUR = {"7": FOUR["data/0"]}
