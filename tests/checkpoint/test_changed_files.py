"""A checkpoint that another program changes after it was opened: an error, and never a mixture."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from torch_files import GOLDEN, LEGACY_GOLDEN

from rbe_cli.checkpoint.checked_files import open_file
from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES, CheckpointTensor
from rbe_cli.checkpoint.gguf.gguf_file import read_gguf
from rbe_cli.checkpoint.safetensors_file import list_safetensors
from rbe_cli.checkpoint.torch_files.torch_file import read_torch_file
from rbe_cli.errors import BadFileError, CheckpointError, NotFoundError

FIXTURES = GOLDEN.parent
FILES: dict[Path, Callable[[Path], dict[str, CheckpointTensor]]] = {
    GOLDEN: lambda path: dict(read_torch_file(path).tensors),
    LEGACY_GOLDEN: lambda path: dict(read_torch_file(path).tensors),
    FIXTURES / "torch_state_dict.safetensors": list_safetensors,
    FIXTURES / "tied.gguf": lambda path: dict(read_gguf(path).tensors),
    FIXTURES / "q8_0.gguf": lambda path: dict(read_gguf(path).tensors),
}


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 4)


def write_over(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-64] + bytes(64))


def replace(path: Path) -> None:
    shutil.copy2(path, path.with_name("other"))  # with the same time
    os.replace(path.with_name("other"), path)


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [cut, write_over, replace, delete])
@pytest.mark.parametrize("golden", FILES, ids=lambda path: path.name)
def test_tensors_of_a_file_that_changes(
    tmp_path: Path, golden: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / golden.name
    shutil.copy(golden, path)
    os.utime(path, (1, 1))
    tensors = [own for own in FILES[golden](path).values() if own.dtype in RAW_TYPES]
    assert all(own.read().shape == own.shape for own in tensors)
    change(path)
    for own in tensors:
        with pytest.raises((CheckpointError, NotFoundError), match=str(path)):
            own.read()


@pytest.mark.parametrize("golden", FILES, ids=lambda path: path.name)
def test_a_file_that_is_replaced_as_it_is_opened(
    tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / golden.name
    shutil.copy(golden, path)
    opened = Path.open

    def replaced(own: Path, mode: str) -> IO[Any]:
        file = opened(own, mode)
        replace(path)
        return file

    monkeypatch.setattr(Path, "open", replaced)
    with pytest.raises(CheckpointError, match="has changed since it was opened"):
        read_all(golden, path)


def read_all(golden: Path, path: Path) -> None:
    for tensor in FILES[golden](path).values():
        tensor.read()


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"content")
    with (
        pytest.raises(BadFileError, match=f"^{path} cannot be read: Input/output error$"),
        open_file(path),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
