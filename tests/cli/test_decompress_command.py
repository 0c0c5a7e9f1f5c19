"""`rbe compress --decompress`."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_files import write_dense

from rbe_cli.model.config import Gpt2Config


@pytest.fixture
def dense_file(tmp_path: Path, config: Gpt2Config, tokenizer_json: bytes) -> Path:
    path = tmp_path / "dense.rbe"
    write_dense(path, config, tokenizer_json=tokenizer_json)
    return path


def test_a_folder_is_written(rbe: Any, dense_file: Path, tmp_path: Path) -> None:
    done = rbe("compress", "-d", dense_file, tmp_path / "out", "--format", "json")
    assert done.code == 0
    assert (
        done.json.items()
        >= {
            "source": str(dense_file),
            "output": str(tmp_path / "out"),
            "format": "folder",
            "dtype": "float32",
        }.items()
    )
    assert done.json["file_bytes"] > 4 * done.json["parameters"] > 0
    shown = rbe("compress", "--decompress", dense_file, tmp_path / "two", "--dtype", "float16")
    assert shown.code == 0
    assert "float16" in shown.out
    assert json.loads((tmp_path / "two" / "config.json").read_text())["torch_dtype"] == "float16"


def test_what_comes_back_can_be_compressed_again(
    rbe: Any, dense_file: Path, tmp_path: Path
) -> None:
    assert rbe("compress", "-d", dense_file, tmp_path / "out").code == 0
    done = rbe("compress", tmp_path / "out", tmp_path / "x.rbe", "--dry-run", "--format", "json")
    assert done.code == 0
    done = rbe("run", dense_file, "The", "--reference", tmp_path / "out", "--engine", "reference")
    assert done.code == 0


def test_a_gguf_file_is_written_and_read(rbe: Any, dense_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    done = rbe("compress", "-d", dense_file, path, "--dtype", "float16", "--format", "json")
    assert done.code == 0
    assert done.json["format"] == "gguf"
    assert done.json["file_bytes"] == path.stat().st_size
    assert done.json["notes"] == []
    assert rbe("compress", "-d", dense_file, path).code == 1
    planned = rbe("compress", path, tmp_path / "x.rbe", "--dry-run", "--format", "json")
    assert planned.code == 0
    assert planned.json["original_bytes"] == path.stat().st_size
    refused = rbe("compress", "-d", dense_file, tmp_path / "b.gguf", "--dtype", "bfloat16")
    assert refused.code == 2
    path.write_bytes(path.read_bytes()[:5000])
    damaged = rbe("compress", path, tmp_path / "x.rbe", "--dry-run")
    assert damaged.code == 3
    (tmp_path / "other.gguf").write_text("notes")
    assert rbe("compress", "-d", dense_file, tmp_path / "other.gguf", "--force").code == 1
    assert (tmp_path / "other.gguf").read_text() == "notes"


@pytest.mark.parametrize(
    "option",
    [("--preset", "tiny"), ("--target-bpw", "3"), ("--dry-run",), ("--seed", "0"), ("--resume",)],
)
def test_options_that_say_how_to_compress_are_refused(
    rbe: Any, dense_file: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    done = rbe("compress", "-d", dense_file, tmp_path / "out", *option)
    assert done.code == 2
    assert f"{option[0]} says how to compress: not with --decompress" in done.err
    assert not (tmp_path / "out").exists()


def test_dtype_belongs_to_decompress(rbe: Any, tmp_path: Path) -> None:
    done = rbe("compress", "demo", tmp_path / "x.rbe", "--dtype", "float16")
    assert done.code == 2
    assert "--dtype belongs to --decompress" in done.err


def test_the_output_is_never_overwritten_silently(
    rbe: Any, dense_file: Path, tmp_path: Path
) -> None:
    assert rbe("compress", "-d", dense_file, tmp_path / "out").code == 0
    again = rbe("compress", "-d", dense_file, tmp_path / "out")
    assert again.code == 1
    assert "exists; use --force" in again.err
    assert rbe("compress", "-d", dense_file, tmp_path / "out", "--force").code == 0
    inside = rbe("compress", "-d", dense_file, tmp_path, "--force")
    assert inside.code == 1
    assert dense_file.exists()


def test_what_is_not_an_rbe_file_is_named(rbe: Any, checkpoint: Path, tmp_path: Path) -> None:
    missing = rbe("compress", "-d", tmp_path / "none.rbe", tmp_path / "out")
    assert missing.code == 4
    weights = rbe("compress", "-d", checkpoint / "model.safetensors", tmp_path / "out")
    assert weights.code == 3
    folder = rbe("compress", "-d", checkpoint, tmp_path / "out")
    assert folder.code == 3
    assert "is a folder, not an .rbe file" in folder.err
