import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES
from rbe_cli.checkpoint.safetensors_file import list_safetensors
from rbe_cli.errors import BadFileError, CheckpointError, NotFoundError

HUGE = (1 << 62) + 1


def write_raw(path: Path, header: Any, data: bytes = b"") -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    written: dict[str, NDArray[Any]] = {
        "b": rng.standard_normal((3, 5)).astype(np.float32),
        "a": rng.standard_normal(7).astype(np.float16),
        "scalar": np.array(2.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }
    save_file(written, tmp_path / "x.safetensors", metadata={"format": "pt"})

    stored = list_safetensors(tmp_path / "x.safetensors")

    assert stored.keys() == written.keys()
    for name, array in written.items():
        read = stored[name].read()
        assert read.dtype == np.float32
        assert stored[name].shape == read.shape == array.shape
        np.testing.assert_array_equal(read, array.astype(np.float32))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 3.0e38, 1e-40, 0.0], dtype=np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    path = write_raw(tmp_path / "x", {"w": entry([5], 0, 10, "BF16")}, bits.tobytes())

    tensor = list_safetensors(path)["w"]

    assert tensor.dtype == "bfloat16"
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(tensor.read(), expected)
    assert tensor.read()[:2].tolist() == [1.0, -2.5]


def test_other_types_are_listed_under_their_own_names(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x", {"mask": entry([1, 4], 0, 4, "BOOL")}, b"\1\0\1\0")
    assert list_safetensors(path)["mask"].dtype == "BOOL"


@pytest.mark.parametrize(
    ("header", "data_bytes"),
    [
        pytest.param({"w": entry([2], 0, 16)}, 16, id="more bytes than the shape needs"),
        pytest.param({"w": entry([4], 0, 16)}, 12, id="truncated data"),
        pytest.param({"w": entry([4], 0, 16)}, 20, id="trailing bytes"),
        pytest.param({"w": entry([4], 8, 24)}, 24, id="hole before the first tensor"),
        pytest.param({"a": entry([4], 0, 16), "b": entry([4], 12, 28)}, 28, id="overlap"),
        pytest.param({"w": entry([4], 16, 0)}, 16, id="end before begin"),
        pytest.param({"w": entry([-4], 0, 16)}, 16, id="negative size"),
        pytest.param({"w": entry([-2, -2], 0, 16)}, 16, id="two negative sizes"),
        pytest.param({"w": entry([4], -16, 0)}, 16, id="negative offset"),
        pytest.param({"w": entry([1 << 31, 1 << 31], 0, 0)}, 0, id="size wraps 64 bits to 0"),
        pytest.param({"w": entry([HUGE, 4], 0, 16)}, 16, id="bytes wrap 64 bits to 16"),
        pytest.param({"w": entry([10**30], 0, 4)}, 4, id="size beyond 64 bits"),
        pytest.param({"w": entry([1] * 1000, 0, 4)}, 4, id="a thousand dimensions"),
        pytest.param({"w": entry([1], 0, 4, "F33")}, 4, id="unknown type"),
        pytest.param({"w": {**entry([1], 0, 4), "more": 1}}, 4, id="unknown field"),
        pytest.param({"w": {"dtype": "F32", "shape": [1]}}, 4, id="missing field"),
        pytest.param({"w": entry([True], 0, 4)}, 4, id="a truth value as size"),
        pytest.param([1, 2], 0, id="not an object"),
        pytest.param(b"{", 0, id="not JSON"),
        pytest.param(b"\xff\xfe", 0, id="not text"),
        pytest.param(b'{"__metadata__":' + b"[" * 100_000, 0, id="deep nesting"),
        pytest.param(b'{"w": {"shape": [' + b"9" * 5000 + b"]}}", 0, id="a number of 5000 digits"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, header: Any, data_bytes: int) -> None:
    path = write_raw(tmp_path / "bad.safetensors", header, bytes(data_bytes))
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        list_safetensors(path)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    one = json.dumps(entry([0], 0, 0))
    path = write_raw(tmp_path / "x", f'{{"w": {one}, "w": {one}}}'.encode())
    with pytest.raises(CheckpointError, match="twice"):
        list_safetensors(path)


@pytest.mark.parametrize("length", [9, 100_000_001, (1 << 63) - 1, (1 << 64) - 1])
def test_a_header_longer_than_the_file_is_not_allocated(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="header length"):
        list_safetensors(path)


def test_a_header_of_very_many_tensors_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    one = json.dumps(entry([0], 0, 0))
    header = "{" + ",".join(f'"{number}": {one}' for number in range(1 << 16)) + "}"
    path = write_raw(tmp_path / "x", header.encode())
    with pytest.raises(CheckpointError, match="declares more than 65536 tensors"):
        list_safetensors(path)


def test_a_header_that_is_very_long_is_refused(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x", b"{}".ljust((1 << 24) + 1))
    with pytest.raises(CheckpointError, match="has a header of 16777217 bytes"):
        list_safetensors(path)


@pytest.mark.parametrize("content", [b"", b"\2\0\0\0"])
def test_a_file_too_short_for_a_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match="header length"):
        list_safetensors(tmp_path / "x")


def test_a_file_that_shrinks_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "x", {"w": entry([4], 0, 16)}, bytes(16))
    tensor = list_safetensors(path)["w"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="shorter"):
        tensor.read()


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        list_safetensors(tmp_path / "nowhere")


HEADER = {"a": entry([2, 2], 0, 16), "b": entry([4], 16, 24, "BF16")}


@given(st.data())
@examples(200)
def test_flipped_bytes_never_escape_the_error_tree(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_raw(Path(folder) / "x", HEADER, bytes(24))
        content = bytearray(path.read_bytes())
        for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
            content[position] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with suppress(BadFileError):
            for tensor in list_safetensors(path).values():
                if tensor.dtype in RAW_TYPES:
                    assert tensor.read().shape == tensor.shape


BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "C64": 8, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8,
}  # fmt: skip
"""Of an item of each type, as the format's documentation has them."""


@pytest.mark.parametrize("dtype", BYTES)
def test_every_type_has_its_size(tmp_path: Path, dtype: str) -> None:
    size = 3 * BYTES[dtype]
    path = write_raw(tmp_path / "x", {"w": entry([3], 0, size, dtype)}, bytes(size))
    assert list_safetensors(path)["w"].shape == (3,)
    for wrong in (size - 3, size + 3):
        path = write_raw(tmp_path / "y", {"w": entry([3], 0, wrong, dtype)}, bytes(wrong))
        with pytest.raises(CheckpointError):
            list_safetensors(path)
