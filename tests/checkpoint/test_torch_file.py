"""Files of `torch.save`: what they hold is read, and what does not fit is refused."""

import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch_files import FOUR, GOLDEN, LEGACY_GOLDEN, call, encode, listed, tensor, write_archive

from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES
from rbe_cli.errors import BadFileError, CheckpointError, NotFoundError


def test_reads_what_torch_writes() -> None:
    expected = load_file(GOLDEN.with_suffix(".safetensors"))

    stored = listed(GOLDEN)

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


def test_float64_is_rounded_to_float32(tmp_path: Path) -> None:
    values = np.array([0.1, 1 / 3, 1e-320, 1e300])
    members = {"data/0": values.astype("<f8").tobytes()}
    path = write_archive(tmp_path / "x.bin", {"w": tensor(kind="DoubleStorage")}, members)
    [stored] = listed(path).values()
    assert stored.dtype == "float64"
    assert stored.read().tolist() == [np.float32(0.1), np.float32(1 / 3), 0.0, np.inf]


def test_types_without_a_storage_class_are_refused_only_as_weights(tmp_path: Path) -> None:
    unknown = tensor(kind="Float8_e4m3fnStorage")
    path = write_archive(tmp_path / "bad.bin", {"w.bias": unknown})
    with pytest.raises(CheckpointError, match="asks for 'torch Float8_e4m3fnStorage': refused"):
        listed(path)
    nested = {"model": {"wpe.weight": tensor()}, "optimizer": {"w": unknown}}
    assert list(listed(write_archive(tmp_path / "x.bin", nested))) == ["wpe.weight"]


@pytest.mark.parametrize(
    ("shape", "stride", "offset", "expected"),
    [
        ((4,), (1,), 0, [0, 1, 2, 3]),
        ((2, 2), (1, 2), 0, [[0, 2], [1, 3]]),
        ((2,), (2,), 1, [1, 3]),
        ((1, 2), (99, 1), 2, [[2, 3]]),
        ((), (), 3, 3),
        ((0, 5), (5, 1), 4, np.zeros((0, 5))),
        ((0, 5), (2**62, 2**62), 4, np.zeros((0, 5))),
        ((1, 2), (2**62, 1), 2, [[2, 3]]),
    ],
)
def test_views_into_a_storage(
    tmp_path: Path, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, expected: Any
) -> None:
    path = write_archive(tmp_path / "x.bin", {"w": tensor(shape, stride, offset)})
    np.testing.assert_array_equal(listed(path)["w"].read(), expected)


def test_a_parameter_is_its_tensor(tmp_path: Path) -> None:
    parameter = call("torch._utils", "_rebuild_parameter", tensor(), True, b"N")
    with_state = call("torch._utils", "_rebuild_parameter_with_state", tensor(), True, b"N", b"N")
    function = b"ctorch._utils\n_rebuild_parameter\n"
    subclass = call(
        "torch._tensor",
        *("_rebuild_from_type_v2", function, b"ctorch\nTensor\n", (tensor(), True), b"N"),
    )
    state = {"a": parameter, "b": with_state, "c": subclass}
    for stored in listed(write_archive(tmp_path / "x.bin", state)).values():
        assert stored.read().tolist() == [0, 1, 2, 3]


def test_a_tensor_with_attributes_calls_nothing_else(tmp_path: Path) -> None:
    function, type_name = b"cposix\nsystem\n", b"ctorch\nTensor\n"
    attack = call("torch._tensor", "_rebuild_from_type_v2", function, type_name, ("x",), b"N")
    with pytest.raises(CheckpointError, match=r"asks for 'torch\._tensor _rebuild_from"):
        listed(write_archive(tmp_path / "bad.bin", {"w.weight": attack}))


def test_what_is_no_tensor_is_no_weight(tmp_path: Path) -> None:
    more = {"h.0._extra_state": b"N", "step": 3, "args": call("argparse", "Namespace")}
    nested = {"optimizer": encode({"state": {}}), "wpe.weight": tensor()}
    assert list(listed(write_archive(tmp_path / "x.bin", more | nested))) == ["wpe.weight"]


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
        pytest.param(tensor(shape=(True,)), id="a size that is a truth value"),
        pytest.param(tensor(stride=(True,)), id="a stride that is a truth value"),
        pytest.param(tensor(size=True, shape=(1,)), id="a storage size that is a truth value"),
        pytest.param(tensor(offset=False), id="an offset that is a truth value"),
        pytest.param(tensor(shape=(1,), stride=(2**200,)), id="a stride of 2**200"),
        pytest.param(tensor(shape=(0,), offset=2**200), id="an offset of 2**200"),
        pytest.param(tensor((1,) * 65, (1,) * 65), id="65 dimensions"),
        pytest.param(tensor("1111", "1111"), id="sizes that are one text"),
        pytest.param(tensor(key="0" * 1000), id="a long key"),
        pytest.param(encode(("storage",) * 1000) + b"Q", id="a long persistent id"),
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
        listed(path)


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
    path = write_archive(tmp_path / "bad.bin", {"w.weight": call(module, attribute, "x")})
    with pytest.raises(CheckpointError, match=f"bad.bin: the pickle asks for '{name}': refused"):
        listed(path)


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", (tensor(),))
    with pytest.raises(CheckpointError, match="state dict"):
        listed(path)


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    bomb = {"data/0": bytes(1 << 24)}
    wide = tensor(shape=(1 << 22,), size=1 << 22)
    path = write_archive(tmp_path / "bad.bin", {"w": wide}, bomb, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(CheckpointError, match=r"'data.pkl' is compressed"):
        listed(path)


def test_a_compressed_storage_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor()}, {})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/0", FOUR["data/0"])
    with pytest.raises(CheckpointError, match="'data/0' is compressed"):
        listed(path)


def test_a_member_declared_larger_than_the_file_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor(shape=(1 << 28,), size=1 << 28)})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the central directory's entry of data/0
    content[entry + 20 : entry + 28] = (1 << 30).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="exceeds the file"):
        listed(path)


def test_a_huge_pickle_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"x" * (1 << 23): tensor()})
    with pytest.raises(CheckpointError, match=r"data\.pkl has more than"):
        listed(path)


def test_damaged_bytes_of_a_storage_are_noticed(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor()})
    path.write_bytes(path.read_bytes().replace(FOUR["data/0"], bytes(16)))
    stored = listed(path)
    with pytest.raises(CheckpointError, match=r"bad\.bin.*CRC-32"):
        stored["w"].read()


def test_a_file_that_changes_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor()})
    stored = listed(path)
    write_archive(path, {"w": tensor()}, {"data/0": bytes(8)})
    with pytest.raises(CheckpointError, match="changed"):
        stored["w"].read()


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor()}, {**FOUR, "byteorder": b"big"})
    with pytest.raises(CheckpointError, match="little-endian"):
        listed(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip archive" * 10])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.bin: it is not a file that torch\.save"):
        listed(tmp_path / "bad.bin")


def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bad.pt", {"w": tensor()}, {**FOUR, "constants.pkl": b"x"})
    with pytest.raises(CheckpointError, match=r"bad\.pt: it is a TorchScript program"):
        listed(path)


def test_an_archive_of_very_many_members_is_refused_before_they_are_listed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.bin", "w") as archive:
        for number in range(26_000):
            archive.writestr(f"model/data/{number:030}", b"")
    with pytest.raises(CheckpointError, match=r"bad\.bin: .*too many members"):
        listed(tmp_path / "bad.bin")


@pytest.mark.parametrize("size", [1 << 31, 0xFFFF_FFFF])
def test_an_archive_that_declares_a_huge_directory_is_refused(tmp_path: Path, size: int) -> None:
    path = write_archive(tmp_path / "bad.bin", {"w": tensor()})
    content = bytearray(path.read_bytes())
    content[-10:-6] = size.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.bin: it is not a file that torch\.save"):
        listed(path)


def test_an_archive_without_a_pickle_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.bin", "w") as archive:
        archive.writestr("model/weights", b"")
    with pytest.raises(CheckpointError, match=r"data\.pkl"):
        listed(tmp_path / "bad.bin")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        listed(tmp_path / "nowhere")


@given(st.data())
@examples(300)
def test_flipped_bytes_never_escape_the_error_tree(data: st.DataObject) -> None:
    golden = data.draw(st.sampled_from([GOLDEN, LEGACY_GOLDEN]))
    content = bytearray(golden.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content)) | st.just(len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.bin"
        path.write_bytes(content)
        with suppress(BadFileError):
            for stored in listed(path).values():
                if stored.dtype in RAW_TYPES:
                    assert stored.read().shape == stored.shape


def test_a_storage_of_two_sizes_is_refused(tmp_path: Path) -> None:
    state = {"a": tensor(size=4), "b": tensor(size=5)}
    with pytest.raises(CheckpointError, match="the pickle is malformed"):
        listed(write_archive(tmp_path / "x.bin", state))
    halves = tensor(size=8, kind="HalfStorage")  # as many bytes: two views of one storage
    assert len(listed(write_archive(tmp_path / "y.bin", {"a": tensor(), "b": halves}))) == 2


def test_a_storage_may_not_be_read_for_thousands_of_tensors(tmp_path: Path) -> None:
    def shared_by(tensors: int) -> Path:
        one = tensor(size=10_000) + b"q\0"  # later tensors are this one again
        state = {f"t{i}": b"h\0" if i else one for i in range(tensors)}
        return write_archive(tmp_path / "x.bin", state, {"data/0": bytes(40_000)})

    assert len(listed(shared_by(580))) == 580
    with pytest.raises(CheckpointError, match="far too many of its tensors share storages"):
        listed(shared_by(2000))


@pytest.mark.parametrize(
    "state",
    [
        encode(("other", b"ctorch\nFloatStorage\n", "0", "cpu", 4)) + b"Q",
        encode(("storage", "FloatStorage", "0", "cpu", 4)) + b"Q",
        call("collections", "OrderedDict", ((1, 2),)),
    ],
    ids=["another kind", "a type that is text", "names that are numbers"],
)
def test_what_stands_for_no_storage_or_dict_is_refused(tmp_path: Path, state: bytes) -> None:
    with pytest.raises(CheckpointError, match="the pickle is malformed"):
        listed(write_archive(tmp_path / "x.bin", {"w": state}))


STORAGES = {
    "Float": ("float32", 4), "Half": ("float16", 2), "BFloat16": ("bfloat16", 2),
    "Double": ("float64", 8), "Bool": ("bool", 1), "Byte": ("uint8", 1), "Char": ("int8", 1),
    "Short": ("int16", 2), "Int": ("int32", 4), "Long": ("int64", 8),
    "ComplexFloat": ("complex64", 8), "ComplexDouble": ("complex128", 16),
    "QInt8": ("qint8", 1), "QUInt8": ("quint8", 1), "QInt32": ("qint32", 4),
}  # fmt: skip
"""Name and bytes of an item of each class of storages, as PyTorch has them."""


@pytest.mark.parametrize("kind", STORAGES)
def test_every_storage_has_its_type_and_size(tmp_path: Path, kind: str) -> None:
    dtype, size = STORAGES[kind]
    state = {"wpe.weight": tensor(kind=f"{kind}Storage")}
    members = {"data/0": bytes(4 * size)}
    assert listed(write_archive(tmp_path / "x.bin", state, members))["wpe.weight"].dtype == dtype
    for wrong in (4 * size - 1, 4 * size + 1):
        members = {"data/0": bytes(wrong)}
        with pytest.raises(CheckpointError):
            listed(write_archive(tmp_path / "y.bin", state, members))


def test_a_member_whose_sizes_differ_is_refused(tmp_path: Path) -> None:
    content = write_archive(tmp_path / "x.bin", {"w": tensor()}).read_bytes()
    place = content.rindex(b"PK\x01\x02")  # the last entry of the directory: that of data/0
    sizes = content[place + 20 : place + 28]
    assert sizes == (16).to_bytes(4, "little") * 2
    changed = content[: place + 24] + (20).to_bytes(4, "little") + content[place + 28 :]
    (tmp_path / "y.bin").write_bytes(changed)
    with pytest.raises(CheckpointError, match="'data/0' is compressed"):
        listed(tmp_path / "y.bin")


@pytest.mark.parametrize("dimensions", [8, 9])
def test_a_tensor_has_eight_dimensions_at_most(tmp_path: Path, dimensions: int) -> None:
    ones = (1,) * dimensions
    state = {"w.weight": tensor(ones, ones), "wpe.weight": tensor()}
    path = write_archive(tmp_path / "x.bin", state)
    if dimensions == 8:
        assert listed(path)["w.weight"].shape == ones
    else:
        with pytest.raises(CheckpointError, match="a tensor has 9 dimensions"):
            listed(path)
