"""GGUF files that are damaged or forged: an error of ours, at once, without much memory."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rbe_cli.checkpoint.gguf.gguf_file import read_gguf
from rbe_cli.errors import CheckpointError

TIED = (Path(__file__).parent / "fixtures" / "tied.gguf").read_bytes()
HUGE = (1 << 64) - 1


def text(value):
    return struct.pack("<Q", len(value)) + value


def gguf(keys=b"", key_count=0, tensors=b"", tensor_count=0, data=b"", version=3):
    header = b"GGUF" + struct.pack("<IQQ", version, tensor_count, key_count) + keys + tensors
    return header + bytes(-len(header) % 32) + data


def tensor(sizes=(4, 2), kind=0, offset=0, name=b"t", dimensions=None):
    count = len(sizes) if dimensions is None else dimensions
    numbers = struct.pack(f"<I{len(sizes)}Q", count, *sizes)
    return text(name) + numbers + struct.pack("<IQ", kind, offset)


def read(tmp_path, content):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    return read_gguf(path)


def test_values_of_every_type(tmp_path):
    keys = text(b"a") + struct.pack("<If", 6, 0.5)
    keys += text(b"b") + struct.pack("<Iq", 11, -7)
    keys += text(b"c") + struct.pack("<I?", 7, True)
    keys += text(b"d") + struct.pack("<I", 8) + text("é".encode())
    keys += text(b"e") + struct.pack("<IIQ", 9, 8, 2) + text(b"x") + text(b"")
    keys += text(b"f") + struct.pack("<IIQ3h", 9, 3, 3, 1, -2, 3)
    data = np.arange(8, dtype=np.float32).tobytes()
    file = read(tmp_path, gguf(keys, 6, tensor(), 1, data))
    numbers = file.metadata.pop("f")
    assert file.metadata == {"a": 0.5, "b": -7, "c": True, "d": "é", "e": ["x", ""]}
    assert numbers == [1, -2, 3]
    np.testing.assert_array_equal(file.tensors["t"].read(), np.arange(8).reshape(2, 4))


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (struct.pack("<IQ", 8, (1 << 20) + 1), "more than 1048576 texts"),
        (struct.pack("<IQ", 0, (1 << 22) + 1), "more than 4194304 numbers"),
        (struct.pack("<IQ", 9, 1), "type 9"),
    ],
)
def test_arrays_that_are_too_large_are_refused(tmp_path, keys, fault):
    with pytest.raises(CheckpointError, match=fault):
        read(tmp_path, gguf(text(b"a") + struct.pack("<I", 9) + keys, 1))


def test_a_text_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="a text of 1048577 bytes"):
        read(tmp_path, gguf(text(b"a" * ((1 << 20) + 1)), 1))


def test_tensors_that_lie_over_one_another_are_refused(tmp_path):
    twice = tensor(name=b"a") + tensor(name=b"b")
    many = b"".join(tensor((64, 64), name=b"t%d" % number) for number in range(3))
    assert len(read(tmp_path, gguf(b"", 0, twice, 2, bytes(32))).tensors) == 2
    with pytest.raises(CheckpointError, match="over one another"):
        read(tmp_path, gguf(b"", 0, many, 3, bytes(64 * 64 * 4)))


def test_bfloat16_and_float64(tmp_path):
    values = np.array([1.5, -2.0], np.float64)
    both = tensor((2,), 28, name=b"d") + tensor((2,), 30, 32, name=b"b")
    halves = (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    file = read(tmp_path, gguf(b"", 0, both, 2, values.tobytes().ljust(32, b"\0") + halves))
    assert file.tensors["d"].read().tolist() == file.tensors["b"].read().tolist() == [1.5, -2.0]


ARRAY_OF = text(b"k") + struct.pack("<I", 9)
FORGED = {
    "another magic": b"GGML" + TIED[4:],
    "an old version": gguf(version=1),
    "swapped bytes": b"GGUF" + struct.pack(">I", 3) + TIED[8:],
    "countless keys": gguf(key_count=HUGE),
    "countless tensors": gguf(tensor_count=HUGE),
    "more keys than there are": gguf(key_count=60000),
    "more tensors than there are": gguf(tensor_count=60000),
    "a text without end": gguf(struct.pack("<Q", HUGE), 1),
    "countless bytes": gguf(ARRAY_OF + struct.pack("<IQ", 0, HUGE), 1),
    "countless numbers": gguf(ARRAY_OF + struct.pack("<IQ", 10, HUGE // 8), 1),
    "countless texts": gguf(ARRAY_OF + struct.pack("<IQ", 8, HUGE), 1),
    "arrays of arrays": gguf(ARRAY_OF + struct.pack("<IQ", 9, 1) * 50, 1),
    "an unknown type of value": gguf(text(b"k") + struct.pack("<II", 99, 0), 1),
    "a key twice": gguf((text(b"k") + struct.pack("<IB", 0, 1)) * 2, 2),
    "a key that is not UTF-8": gguf(text(b"\xff") + struct.pack("<IB", 0, 1), 1),
    "alignment 0": gguf(text(b"general.alignment") + struct.pack("<II", 4, 0), 1),
    "alignment 12": gguf(text(b"general.alignment") + struct.pack("<II", 4, 12), 1),
    "a tensor beyond the end": gguf(b"", 0, tensor(), 1, bytes(31)),
    "an offset beyond the end": gguf(b"", 0, tensor(offset=HUGE), 1, bytes(32)),
    "sizes whose product overflows": gguf(b"", 0, tensor((1 << 62, 4)), 1, bytes(32)),
    "no dimension": gguf(b"", 0, tensor(()), 1, bytes(32)),
    "five dimensions": gguf(b"", 0, tensor((1,) * 5), 1, bytes(32)),
    "a dimension of no size": gguf(b"", 0, tensor((32, 0), 8), 1, bytes(32)),
    "a dimension of a huge size": gguf(b"", 0, tensor((1, HUGE), 0), 1, bytes(32)),
    "dimensions that are not there": gguf(b"", 0, tensor((1,), dimensions=HUGE >> 32), 1),
    "an unknown type of tensor": gguf(b"", 0, tensor(kind=77), 1, bytes(32)),
    "rows that are no blocks": gguf(b"", 0, tensor((31, 1), kind=8), 1, bytes(64)),
    "a tensor twice": gguf(b"", 0, tensor() * 2, 2, bytes(32)),
    "nothing": b"",
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED.keys())
def test_what_is_forged_is_refused_without_much_memory(tmp_path, content):
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"x\.gguf"):
            read(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_file_that_was_cut_short_is_refused(tmp_path):
    header = TIED.index(b"blk.0")
    for size in [*range(0, 200), *range(200, header, 997), *range(header, len(TIED), 9973)]:
        with pytest.raises(CheckpointError):
            read(tmp_path, TIED[:size])


def test_any_byte_may_be_another(tmp_path):
    """Whatever a byte of the header becomes, the file is read or refused."""
    rng = np.random.default_rng(0)
    end = TIED.index(b"output_norm.bias")
    refused = 0
    for position in rng.integers(4, end, 300):
        content = bytearray(TIED)
        content[position] ^= rng.integers(1, 256)
        try:
            read(tmp_path, bytes(content))
        except CheckpointError:
            refused += 1
    assert 0 < refused < 300


def test_a_type_that_the_library_cannot_decode_is_named(tmp_path):
    file = read(tmp_path, gguf(b"", 0, tensor((256, 1), kind=15), 1, bytes(292 + 64)))
    with pytest.raises(CheckpointError, match=r"cannot decode tensor 't' \(Q8_K\)"):
        file.tensors["t"].read()


def test_a_disk_that_fails_while_the_header_is_read_is_named(tmp_path, monkeypatch):
    def fail(cursor, count):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("rbe_cli.checkpoint.gguf.gguf_file._Cursor.take", fail)
    with pytest.raises(CheckpointError, match=r"x\.gguf cannot be read: .*Input/output error"):
        read(tmp_path, TIED)


@pytest.mark.parametrize("missing", range(1, 9))
def test_a_header_that_lacks_a_few_bytes_is_refused(tmp_path, missing):
    whole = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"a") + struct.pack("<IQ", 10, 5)
    assert read(tmp_path, whole).metadata == {"a": 5}
    with pytest.raises(CheckpointError, match="the file ends inside its header"):
        read(tmp_path, whole[:-missing])


@pytest.mark.parametrize("size", range(1, 5))
def test_a_small_number_that_is_missing_is_refused(tmp_path, size):
    kind = {1: 0, 2: 2, 4: 4}.get(size, 7)
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(b"a") + struct.pack("<I", kind)
    with pytest.raises(CheckpointError, match="the file ends inside its header"):
        read(tmp_path, header)


def test_an_empty_file_is_named_as_such(tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.gguf: the file is empty$"):
        read(tmp_path, b"")
    with pytest.raises(CheckpointError, match=r"x\.gguf: the file ends inside its header$"):
        read(tmp_path, b"G")


@pytest.mark.parametrize(("tensors", "keys"), [(2**16 + 1, 0), (0, 2**16 + 1)])
def test_very_many_entries_are_not_looked_for(tmp_path, tensors, keys):
    fault = f"it declares {tensors} tensors and {keys} keys"
    with pytest.raises(CheckpointError, match=fault):
        read(tmp_path, gguf(key_count=keys, tensor_count=tensors))


def test_a_damaged_scale_is_decoded_without_a_warning(tmp_path):
    block = struct.pack("<H", 0x7C00) + bytes(32)  # an infinite scale, and zeros
    file = read(tmp_path, gguf(b"", 0, tensor((32, 1), 8), 1, block))
    assert np.isnan(file.tensors["t"].read()).all()


def test_as_many_entries_as_are_allowed_are_looked_for(tmp_path):
    for tensors, keys in ((2**16, 0), (0, 2**16)):
        with pytest.raises(CheckpointError, match="the file ends inside its header"):
            read(tmp_path, gguf(key_count=keys, tensor_count=tensors))
