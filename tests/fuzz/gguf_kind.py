"""GGUF files: keys, values, declarations of tensors and data, changed one by one."""

import struct
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from fuzz.byte_mutations import mutated_bytes
from fuzz.draws import Draws, joined, wrapped
from fuzz.kinds import InputKind, check_notes
from fuzz.safetensors_kind import check_tensor
from fuzz.scratch import SCRATCH

from rbe_cli.checkpoint.gguf.gguf_checkpoint import open_gguf
from rbe_cli.checkpoint.gguf.gguf_file import read_gguf
from rbe_cli.errors import BadFileError, NotFoundError, UsageError

_FIXTURES = Path(__file__).parents[1] / "checkpoint" / "fixtures"
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_TYPES = (*range(31), 39, 255, (1 << 32) - 1)


class GgufParts(NamedTuple):
    """A file in parts: the bytes of each key with its value, of each declaration, and the data."""

    keys: list[bytes]
    tensors: list[bytes]
    data: bytes


class GgufKind(InputKind):
    """A GGUF file."""

    name: ClassVar[str] = "gguf"
    errors = (BadFileError, NotFoundError, UsageError)
    share = 1.5

    @cached_property
    def _seeds(self) -> list[GgufParts]:
        return [_model(0), _model(0, tokens=True), _model(8), _model(2), _model(30)]

    @cached_property
    def _golden(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(_FIXTURES.glob("q*.gguf"))]

    def case(self, draws: Draws) -> Any:
        """Return a file with one or two changes."""
        choice = draws.below(32)
        if choice == 0:
            data = draws.one_of(self._golden)
            return mutated_bytes(draws, data[:8192]) + data[8192:]
        parts = draws.one_of(self._seeds)
        for _ in range(1 + (draws.below(4) == 0)):
            parts = _changed(draws, parts)
        counts = [len(parts.tensors), len(parts.keys)]
        if choice == 1:
            counts[draws.below(2)] = draws.integer()
        version = draws.below(5) if choice == 2 else 3
        head = struct.pack("<4sI", b"GGUF", version) + wrapped(counts[0], 8) + wrapped(counts[1], 8)
        header = joined(head, parts.keys, parts.tensors)
        data = header + bytes(-len(header) % 32) + parts.data
        return mutated_bytes(draws, data) if choice == 3 else data

    def read(self, case: Any) -> None:
        """List and read the tensors, and open the model."""
        path = SCRATCH.write("model.gguf", case)
        for tensor in read_gguf(path).tensors.values():
            check_tensor(tensor)
        checkpoint = open_gguf(path, "case")
        check_notes(checkpoint.notes)
        for name in checkpoint.tensors:
            checkpoint.tensors[name]


def _changed(draws: Draws, parts: GgufParts) -> GgufParts:
    choice = draws.below(16)
    if choice == 0:
        return parts._replace(data=mutated_bytes(draws, parts.data))
    field = "keys" if choice < 8 else "tensors"
    entries: list[bytes] = getattr(parts, field)
    if not entries:
        return parts
    at = draws.below(len(entries))
    before, own, after = entries[:at], entries[at], entries[at + 1 :]
    if choice in (1, 8):
        changed = [*before, *after]
    elif choice in (2, 9):
        changed = [*before, own, own, *after]
    elif choice in (3, 10):
        changed = [*after, *before, own]
    else:
        changed = [*before, _changed_entry(draws, own, choice), *after]
    return parts._replace(**{field: changed})


def _changed_entry(draws: Draws, entry: bytes, choice: int) -> bytes:
    """Return a key or a declaration with another value or size; or other bytes."""
    try:
        if choice < 6:
            return _with_value(draws, entry)
        if 10 < choice < 14:
            return _with_size(draws, entry)
    except struct.error:  # it was changed before
        pass
    return mutated_bytes(draws, entry)


def _with_value(draws: Draws, key: bytes) -> bytes:
    """Return a key with another value, mostly of another type."""
    (size,) = struct.unpack_from("<Q", key)
    name = key[: 8 + size]
    kind = draws.one_of((*range(14), 255))
    if kind == _STRING:
        text = draws.one_of((b"gpt2", b"", b"\xff\xfe", b"llama", b"a" * 300, b"\x1b[31m"))
        size = draws.integer() if draws.below(4) == 0 else len(text)
        value = wrapped(size, 8) + text
    elif kind == _ARRAY:
        inner, count = draws.one_of((0, 4, 5, 6, 7, 8, 9, 12)), draws.one_of((0, 1, 3))
        items = wrapped(0, 8) * count if inner == _STRING else bytes(8 * count)
        count = draws.integer() if draws.below(3) == 0 else count
        value = wrapped(inner, 4) + wrapped(count, 8) + items
    else:
        number = struct.pack("<d", draws.floating()) if draws.below(4) == 0 else b""
        value = (number or wrapped(draws.integer(), 8))[: draws.one_of((1, 4, 4, 4, 8))]
    return name + wrapped(kind, 4) + value


def _with_size(draws: Draws, entry: bytes) -> bytes:
    """Return a declaration with another number of dimensions, size, type or offset."""
    (size,) = struct.unpack_from("<Q", entry)
    start, choice = 8 + size, draws.below(8)
    (count,) = struct.unpack_from("<I", entry, start)
    if not 1 <= count <= 4:
        raise struct.error("the number of dimensions was changed before")
    places = [start + 4 + 8 * index for index in range(count)]
    kind, offset = start + 4 + 8 * count, start + 8 + 8 * count
    if choice == 0:
        return entry[:start] + wrapped(draws.integer(), 4) + entry[start + 4 :]
    if choice < 3:
        return entry[:kind] + wrapped(draws.one_of(_TYPES), 4) + entry[kind + 4 :]
    if choice < 5:
        before = int.from_bytes(entry[offset:], "little")
        value = before + draws.one_of((-1, 1, 32, -32)) if choice == 3 else draws.integer()
        return entry[:offset] + wrapped(value, 8)
    at = draws.one_of(places)
    (before,) = struct.unpack_from("<Q", entry, at)
    value = before + draws.one_of((-1, 1, 32)) if choice == 5 else draws.integer()
    return entry[:at] + wrapped(value, 8) + entry[at + 8 :]


def _model(kind: int, tokens: bool = False) -> GgufParts:
    """Return a GPT-2 of one layer, whose matrices have a type of GGUF."""
    numbers = {
        "context_length": 4, "embedding_length": 32, "block_count": 1, "attention.head_count": 2,
        "feed_forward_length": 32,
    }  # fmt: skip
    keys = [_key("general.architecture", _STRING, _text("gpt2"))]
    keys += [_key(f"gpt2.{key}", _UINT32, wrapped(own, 4)) for key, own in numbers.items()]
    epsilon = struct.pack("<f", 1e-5)
    keys.append(_key("gpt2.attention.layer_norm_epsilon", _FLOAT32, epsilon))
    keys.append(_key("general.alignment", _UINT32, wrapped(32, 4)))
    if tokens:
        texts = [_text(own) for own in ("a", "b", "ab", "<|endoftext|>", "c", "d")]
        listed = wrapped(_STRING, 4) + wrapped(len(texts), 8) + joined(texts)
        merges = wrapped(_STRING, 4) + wrapped(1, 8) + _text("a b")
        kinds = (
            wrapped(5, 4) + wrapped(6, 8) + joined([wrapped(own, 4) for own in (1, 1, 1, 3, 4, 5)])
        )
        keys.append(_key("tokenizer.ggml.model", _STRING, _text("gpt2")))
        keys.append(_key("tokenizer.ggml.tokens", _ARRAY, listed))
        keys.append(_key("tokenizer.ggml.merges", _ARRAY, merges))
        keys.append(_key("tokenizer.ggml.token_type", _ARRAY, kinds))
        keys.append(_key("tokenizer.ggml.eos_token_id", _UINT32, wrapped(3, 4)))
        keys.append(_key("tokenizer.ggml.bos_token_id", _UINT32, wrapped(2, 4)))
        keys.append(_key("tokenizer.ggml.add_bos_token", _BOOL, b"\1"))
    return _with_tensors(keys, kind)


def _with_tensors(keys: list[bytes], kind: int) -> GgufParts:
    sizes = {"token_embd": (32, 6), "position_embd": (32, 4), "blk.0.attn_qkv": (32, 96)}
    sizes |= {"blk.0.attn_output": (32, 32), "blk.0.ffn_up": (32, 32), "blk.0.ffn_down": (32, 32)}
    norms = {"blk.0.attn_norm": 32, "blk.0.ffn_norm": 32, "output_norm": 32}
    biases = {name: own[1] for name, own in sizes.items() if name.startswith("blk")}
    block_bytes = {0: 128, 2: 18, 8: 34, 30: 64}[kind]
    entries, data, position = [], [], 0
    for name, (rows, columns) in sizes.items():
        size = block_bytes * rows * columns // 32
        entries.append(_tensor(f"{name}.weight", (rows, columns), kind, position))
        data.append(bytes(size + -size % 32))
        position += len(data[-1])
    vectors = {f"{name}.{part}": own for name, own in norms.items() for part in ("weight", "bias")}
    vectors |= {f"{name}.bias": own for name, own in biases.items()}
    for name, length in vectors.items():
        entries.append(_tensor(name, (length,), 0, position))
        data.append(bytes(4 * length))
        position += 4 * length
    return GgufParts(keys, entries, joined(data))


def _text(text: str) -> bytes:
    return wrapped(len(text.encode()), 8) + text.encode()


def _key(name: str, kind: int, value: bytes) -> bytes:
    return _text(name) + wrapped(kind, 4) + value


def _tensor(name: str, sizes: tuple[int, ...], kind: int, offset: int) -> bytes:
    numbers = joined([wrapped(own, 8) for own in sizes])
    return _text(name) + wrapped(len(sizes), 4) + numbers + wrapped(kind, 4) + wrapped(offset, 8)
