import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from rbe_cli.checkpoint.stored_tensor import RAW_TYPES
from rbe_cli.checkpoint.torch_pickle import list_torch_pickle
from rbe_cli.errors import BadFileError, CheckpointError, NotFoundError

# Written by a real torch.save, see make_torch_fixture.py.
GOLDEN = Path(__file__).parent / "fixtures" / "torch_state_dict.bin"


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


def test_reads_what_torch_writes() -> None:
    expected = load_file(GOLDEN.with_suffix(".safetensors"))

    stored = list_torch_pickle(GOLDEN)

    assert stored.keys() == expected.keys()
    weights = [name for name in stored if not name.endswith("attn.bias")]
    assert {stored[name].dtype for name in weights} == {"float32", "float16", "bfloat16"}
    for name in weights:
        read = stored[name].read()
        assert read.dtype == np.float32
        assert read.flags.writeable
        assert stored[name].shape == read.shape
        np.testing.assert_array_equal(read, expected[name])
    assert stored["transformer.h.0.attn.bias"].dtype == "bool"


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "expected"),
    [
        ((4,), (1,), 0, [0, 1, 2, 3]),
        ((2, 2), (1, 2), 0, [[0, 2], [1, 3]]),
        ((2,), (2,), 1, [1, 3]),
        ((1, 2), (99, 1), 2, [[2, 3]]),
        ((), (), 3, 3),
        ((0, 5), (5, 1), 4, np.zeros((0, 5))),
    ],
)
def test_views_into_a_storage(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, expected: Any
) -> None:
    path = write_archive(tmp_path / "x.bin", {"w": tensor(shape, stride, offset)})
    np.testing.assert_array_equal(list_torch_pickle(path)["w"].read(), expected)


def test_a_parameter_is_its_tensor(tmp_path: Path) -> None:
    parameter = call("torch._utils", "_rebuild_parameter", tensor(), True, b"N")
    path = write_archive(tmp_path / "x.bin", {"w": parameter})
    assert list_torch_pickle(path)["w"].read().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(tensor(shape=(5,)), id="one item too many"),
        pytest.param(tensor(offset=1), id="offset too large"),
        pytest.param(tensor(shape=(2,), stride=(4,)), id="stride too large"),
        pytest.param(tensor(shape=(1 << 40,), stride=(0,)), id="a terabyte of one item"),
        pytest.param(tensor(shape=(1 << 32, 1 << 32), stride=(0, 0)), id="64-bit overflow"),
        pytest.param(tensor(shape=(2**600, 0), offset=5), id="empty, past the end"),
        pytest.param(tensor(offset=-1), id="negative offset"),
        pytest.param(tensor(shape=(-2, -2), stride=(1, 1)), id="negative sizes"),
        pytest.param(tensor(stride=(-1,), offset=3), id="negative stride"),
        pytest.param(tensor(shape=(2, 2)), id="fewer strides than sizes"),
        pytest.param(tensor(shape=("a",)), id="a size that is text"),
        pytest.param(tensor(size=5), id="storage declared larger than it is"),
        pytest.param(tensor(size=1 << 62, shape=(1 << 62,)), id="storage declared huge"),
        pytest.param(tensor(size=-4), id="storage declared negative"),
        pytest.param(tensor(size="4"), id="storage size that is text"),
        pytest.param(tensor(key="1"), id="storage that is not there"),
        pytest.param(tensor(key="../data.pkl"), id="storage outside the folder"),
        pytest.param(tensor(key=0), id="storage key that is a number"),
        pytest.param(encode(("module", "x", "0", "cpu", 4)) + b"Q", id="not a storage"),
        pytest.param(encode("text") + b"Q", id="persistent id that is text"),
        pytest.param(encode(1), id="a number instead of a tensor"),
        pytest.param(call("torch._utils", "_rebuild_tensor_v2"), id="no arguments"),
        pytest.param(call("torch._utils", "_rebuild_tensor_v2", 1, 0, (), ()), id="no storage"),
        pytest.param(call("collections", "OrderedDict", ()), id="OrderedDict of something"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, bad: bytes) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": bad})
    with pytest.raises(CheckpointError, match=r"bad\.bin"):
        list_torch_pickle(path)


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils _rebuild_device_tensor_from_numpy",
        "torch._utils _rebuild_tensor",
        "torch.storage _load_from_bytes",
        "torch load",
        "posix system",
        "__builtin__ eval",
    ],
)
def test_names_outside_the_list_are_refused(tmp_path: Path, name: str) -> None:
    module, attribute = name.split()
    path = write_archive(tmp_path / "bad.bin", {"w": call(module, attribute, "x")})
    with pytest.raises(CheckpointError, match=f"bad.bin: the pickle asks for '{name}': refused"):
        list_torch_pickle(path)


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", (tensor(),))
    with pytest.raises(CheckpointError, match="state dict"):
        list_torch_pickle(path)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    bomb = {"data/0": bytes(1 << 24)}
    wide = tensor(shape=(1 << 22,), size=1 << 22)
    path = write_archive(tmp_path / "bad.bin", {"w": wide}, bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(CheckpointError, match=r"'data.pkl' is compressed"):
        list_torch_pickle(path)


def test_a_compressed_storage_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor()}, {})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/0", FOUR["data/0"])
    with pytest.raises(CheckpointError, match="'data/0' is compressed"):
        list_torch_pickle(path)


def test_a_member_declared_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor(shape=(1 << 28,), size=1 << 28)})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the central directory's entry of data/0
    content[entry + 20 : entry + 28] = (1 << 30).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="exceeds the file"):
        list_torch_pickle(path)


def test_a_huge_pickle_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"x" * (1 << 22): tensor()})
    with pytest.raises(CheckpointError, match=r"data\.pkl has more than"):
        list_torch_pickle(path)


def test_damaged_bytes_of_a_storage_are_noticed(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor()})
    path.write_bytes(path.read_bytes().replace(FOUR["data/0"], bytes(16)))
    stored = list_torch_pickle(path)
    with pytest.raises(CheckpointError, match=r"bad\.bin.*CRC-32"):
        stored["w"].read()


def test_a_file_that_changes_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor()})
    stored = list_torch_pickle(path)
    write_archive(path, {"w": tensor()}, {"data/0": bytes(8)})
    with pytest.raises(CheckpointError, match="changed"):
        stored["w"].read()


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor()}, {**FOUR, "byteorder": b"big"})
    with pytest.raises(CheckpointError, match="little-endian"):
        list_torch_pickle(path)


def test_the_format_before_pytorch_1_6_is_named(tmp_path: Path) -> None:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    (tmp_path / "old.bin").write_bytes(magic + bytes(100))
    with pytest.raises(CheckpointError, match=r"PyTorch before 1\.6"):
        list_torch_pickle(tmp_path / "old.bin")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip archive" * 10])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.bin is not a file that torch\.save wrote"):
        list_torch_pickle(tmp_path / "bad.bin")


def test_an_archive_without_a_pickle_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.bin", "w") as archive:
        archive.writestr("model/weights", b"")
    with pytest.raises(CheckpointError, match=r"data\.pkl"):
        list_torch_pickle(tmp_path / "bad.bin")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        list_torch_pickle(tmp_path / "nowhere")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bytes_never_escape_the_error_tree(data: st.DataObject) -> None:
    content = bytearray(GOLDEN.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content)) | st.just(len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.bin"
        path.write_bytes(content)
        with suppress(BadFileError):
            for stored in list_torch_pickle(path).values():
                if stored.dtype in RAW_TYPES:
                    assert stored.read().shape == stored.shape
