"""Pickles of `torch.save`, opcode by opcode, and the files around them."""

import pickle
import pickletools
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from fuzz.byte_mutations import mutated_bytes
from fuzz.draws import Draws, joined, wrapped
from torch_files import GOLDEN, call, encode, legacy_tensor, tensor

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_CONFIG = {"n_layer": 1, "n_embd": 2, "n_head": 1}


def pickle_seeds(legacy: bool) -> list[list[bytes]]:
    """Return pickles of state dicts as lists of opcodes with their arguments."""
    make = legacy_tensor if legacy else tensor
    key = "7" if legacy else "0"
    plain = {"wpe.weight": make((2, 2), (2, 1), key=key), "wte.weight": make(key=key)}
    whole = {"model": plain, "model_args": _CONFIG, "step": 3}
    part = make((2,), (2,), 1, key=key)
    parameter = call("torch._utils", "_rebuild_parameter", part, True, encode({}))
    arguments = {"hparams": call("argparse", "Namespace")}
    several: dict[str, Any] = {"ema": plain, "net": {"a.wpe.weight": part}, **arguments}
    states = [plain, whole, several, {"wpe.weight": parameter}, {"wpe.weight": part, "x": "y"}]
    pickles = [b"\x80\x02" + encode(own) + b"." for own in states]
    ordered = call("collections", "OrderedDict") + b"q\x00" + encode("wpe.weight") + make(key=key)
    pickles.append(b"\x80\x02" + ordered + b"sq\x01h\x00}b.")
    if not legacy:
        import zipfile

        with zipfile.ZipFile(GOLDEN) as archive:
            name = next(own for own in archive.namelist() if own.endswith("data.pkl"))
            pickles.append(archive.read(name))
    return [opcodes_of(own) for own in pickles]


def opcodes_of(data: bytes) -> list[bytes]:
    """Cut a pickle into its opcodes with their arguments."""
    starts = [place or 0 for _, _, place in pickletools.genops(data)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


_GLOBALS = (
    *("os\nsystem", "builtins\neval", "torch\nFloatStorage", "torch\nDoubleStorage"),
    *(
        "torch\nBoolStorage",
        "torch\nHalfStorage",
        "collections\nOrderedDict",
        "torch\nQInt8Storage",
    ),
    *("torch._utils\n_rebuild_tensor_v2", "torch._utils\n_rebuild_parameter", "x\ny"),
    *("torch._tensor\n_rebuild_from_type_v2", "builtins\nset", "argparse\nNamespace"),
)
_OPCODES = (
    *(
        b"N",
        b"\x88",
        b"\x89",
        b"(",
        b"t",
        b")",
        b"]",
        b"}",
        b"u",
        b"s",
        b"a",
        b"e",
        b"0",
        b"1",
        b"2",
    ),
    *(b"R", b"b", b"Q", b"\x81", b"\x92", b"\x85", b"\x86", b"\x87", b"\x93", b"\x94", b".", b"l"),
    *(b"d", b"\x8f", b"\x90", b"\x91", b"o", b"i", b"I1\n", b"L1L\n", b"F1\n", b"S'a'\n", b"P1\n"),
    *(b"\x82\x01", b"h\x00", b"h\x01", b"h\xff", b"q\x00", b"q\x07", b"j\xff\xff\xff\x7f"),
    *(b"r\xff\xff\xff\xff", b"\x95" + b"\xff" * 8, b"\x80\x05", b"\x80\xff", b"X\xff\xff\xff\xff"),
    *(
        b"\x8b\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\x7f",
        b"B\xff\xff\xff\x7f",
        b"\x8c\x01a",
        b"\x8a\x00",
    ),
    *(b"G\x7f\xf0" + bytes(6), b"G\x7f\xf8" + bytes(6), b"\x8a\x1a" + b"\xff" * 25 + b"\x7f"),
)


def mutated_pickle(draws: Draws, opcodes: list[bytes]) -> list[bytes]:
    """Return a pickle that differs in one to three opcodes."""
    for _ in range(1 + draws.below(3)):
        opcodes = _changed(draws, opcodes)
    return opcodes


def _changed(draws: Draws, opcodes: list[bytes]) -> list[bytes]:
    at, choice = draws.below(len(opcodes)), draws.below(16)
    before, own, after = opcodes[:at], opcodes[at], opcodes[at + 1 :]
    if choice == 0:
        return [*before, *after]
    if choice == 1:
        return [*before, own, own, *after]
    if choice < 4:
        return [*before, draws.one_of(_OPCODES), own, *after]
    if choice == 4:
        return [*before, draws.one_of(_OPCODES), *after]
    if choice == 5:
        return [*before, _integer(draws), own, *after]
    if choice == 6:
        return [*before, b"c" + draws.one_of(_GLOBALS).encode() + b"\n", own, *after]
    if choice == 7:
        other = draws.below(len(opcodes))
        changed = list(opcodes)
        changed[at], changed[other] = changed[other], changed[at]
        return changed
    if choice == 8:
        start = draws.below(len(opcodes))
        return [*before, *opcodes[start : start + 1 + draws.below(12)], own, *after]
    if choice == 9:
        return [*before, *[own] * draws.one_of((10, 100, 1000)), *after]
    if choice == 10:  # a memo that doubles itself
        return [*before, b"]q\x63", b"(h\x63h\x63tq\x63" * draws.one_of((3, 20, 40)), *after]
    return [*before, _other_argument(draws, own), *after]


def _integer(draws: Draws) -> bytes:
    if draws.below(8) == 0:
        digits = b"\xff" * draws.one_of((24, 25, 200)) + draws.one_of((b"\x7f", b"\x80"))
        return b"\x8a" + bytes([len(digits)]) + digits
    digits = pickle.encode_long(draws.integer())
    return b"\x8a" + bytes([len(digits)]) + digits


def _other_argument(draws: Draws, opcode: bytes) -> bytes:
    """Return an opcode with another argument of its type, or other bytes for it."""
    kind = opcode[:1]
    if kind in b"KMJ\x8a":
        return _integer(draws)
    if kind == b"c":
        return b"c" + draws.one_of(_GLOBALS).encode() + b"\n"
    if kind in b"X\x8c":
        words = ("wpe.weight", "a", "", "storage", "cpu", "0", "7", "model", "\0", "x" * 200)
        return encode(draws.one_of(words))
    if kind in b"hq" and len(opcode) == 2:
        return kind + bytes([draws.below(12)])
    return mutated_bytes(draws, opcode)


class Member(NamedTuple):
    """A member of a zip archive; fields of None are the right ones."""

    name: bytes
    data: bytes


def zip_bytes(draws: Draws, members: list[Member], is_wrong: bool) -> bytes:
    """Return an archive of stored members; one field of it is wrong if it should be."""
    local, central, position = [], [], 0
    wrong = draws.below(2 * len(members) + 1) if is_wrong else -1
    for index, (name, data) in enumerate(members):
        crc, size = zlib.crc32(data), len(data)
        fields = [20, 0, 0, 0, 33, crc, size, size, len(name), 0]
        own = struct.pack("<4s5H3I2H", b"PK\3\4", *_wrong(draws, fields, wrong == 2 * index))
        local += [own, name, data]
        fields = [20, 20, 0, 0, 0, 33, crc, size, size, len(name), 0, 0, 0, 0, 0, position]
        fields = _wrong(draws, fields, wrong == 2 * index + 1)
        central += [struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields), name]
        position += len(own) + len(name) + len(data)
    body, directory = joined(local), joined(central)
    fields = [0, 0, len(members), len(members), len(directory), len(body), 0]
    fields = _wrong(draws, fields, wrong == 2 * len(members), wide=(4, 5))
    return body + directory + struct.pack("<4s4H2IH", b"PK\5\6", *fields)


def _wrong(
    draws: Draws, fields: list[int], is_wrong: bool, wide: tuple[int, ...] = ()
) -> list[int]:
    """Return the fields of a record of zip, one of them with another value."""
    if not is_wrong:
        return fields
    at = draws.below(len(fields))
    if not wide:
        wide = (5, 6, 7) if len(fields) == 10 else (6, 7, 8, 14, 15)
    limit = (1 << (32 if at in wide else 16)) - 1
    edges = (fields[at] + 1, fields[at] - 1, 0, 1, 8, limit, limit - 1, draws.integer())
    return [*fields[:at], draws.one_of(edges) & limit, *fields[at + 1 :]]


def legacy_bytes(draws: Draws, opcodes: list[bytes], storage: bytes, is_wrong: bool) -> bytes:
    """Return a file as before PyTorch 1.6; one part around the pickle is wrong if it should be."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(own, protocol=2) for own in (_MAGIC_NUMBER, 1001, machine)]
    parts += [joined(opcodes), pickle.dumps(["7"], protocol=2)]
    parts += [wrapped(len(storage) // 4, 8), storage]
    if is_wrong:
        at = 1 + draws.below(len(parts) - 1)
        change = draws.below(3)
        if change == 0:
            parts[at] = mutated_bytes(draws, parts[at])
        elif change == 1:
            keys: list[object] = [[], ["7", "7"], ["8"], [7], None, {"7": 1}, ["7", "a"]]
            parts[4] = pickle.dumps(draws.one_of(keys), protocol=2)
        else:
            parts[5] = wrapped(draws.integer(), 8)
    return joined(parts)


STORAGE = np.arange(4, dtype="<f4").tobytes()
