import pickle
import tarfile
from pathlib import Path

import pytest

from rbe_cli.checkpoint.file_kind import FileKind, file_kind, refuse_placeholder
from rbe_cli.checkpoint.weight_files import read_weights
from rbe_cli.errors import CheckpointError

LFS_POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707
size 497774208
"""


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", FileKind.empty),
        (LFS_POINTER, FileKind.lfs_pointer),
        (b"<!DOCTYPE html>\n<html>", FileKind.html),
        (b"\xef\xbb\xbf\n <html lang='en'>", FileKind.html),
        (b"GGUF\x03\0\0\0", FileKind.gguf),
        (b"\x89RBE\r\n\x1a\n", FileKind.rbe),
        (b"\x89HDF\r\n\x1a\n", FileKind.hdf5),
        (b"PK\x03\x04", FileKind.torch_zip),
        *((pickle.dumps(0x1950A86A20F9469CFC6C, p), FileKind.torch_legacy) for p in (2, 3, 4, 5)),
        *((pickle.dumps({"a": [1]}, p), FileKind.pickle) for p in (2, 3, 4, 5)),
        ((16).to_bytes(8, "little") + b'{"a":1}', FileKind.safetensors),
        ((1 << 40).to_bytes(8, "little") + b'{"a":1}', FileKind.unknown),
        (b"some text of a file", FileKind.unknown),
    ],
)
def test_kinds_by_the_first_bytes(tmp_path: Path, content: bytes, kind: FileKind) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    assert file_kind(tmp_path / "x.bin") is kind


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS_POINTER, r"Git LFS pointer.* \(497\.8 MB\): get it with git lfs pull"),
        (b"<!doctype html><html>Not found", "web page"),
        (b"", "is empty: its download did not finish"),
        (b"GGUF\x03\0\0\0", "is a GGUF file"),
        (b"\x89RBE\r\n\x1a\n", r"is an \.rbe file, where a checkpoint is needed"),
        (b"\x89HDF\r\n\x1a\n", "TensorFlow"),
        (pickle.dumps({"a": [1]}), "plain pickle"),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_weights([tmp_path / name])
    assert name in str(caught.value)


def test_the_tar_form_is_named(tmp_path: Path) -> None:
    (tmp_path / "storages").write_bytes(bytes(10))
    with tarfile.open(tmp_path / "old.bin", "w") as archive:
        archive.add(tmp_path / "storages", "storages")
    with pytest.raises(CheckpointError, match=r"PyTorch before 0\.1\.2"):
        read_weights([tmp_path / "old.bin"])


def test_what_a_file_holds_decides_and_not_its_name(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "fixtures" / "torch_state_dict.bin"
    (tmp_path / "model.safetensors").write_bytes(golden.read_bytes())
    (tmp_path / "model.bin").write_bytes(golden.with_suffix(".safetensors").read_bytes())
    as_torch, as_safetensors = (
        dict(read_weights([tmp_path / name]).tensors) for name in ("model.safetensors", "model.bin")
    )
    assert as_torch.keys() == as_safetensors.keys()


def test_whole_files_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"{}")
    refuse_placeholder(tmp_path / "x")
