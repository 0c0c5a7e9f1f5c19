"""What `compress`, `inspect` and `generate` say about a model's tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Rbe = Callable[..., Any]
REASON = "tekken.json is not a tokenizer that rbe can read"


@pytest.fixture
def compressed_with_note(
    rbe: Rbe, tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> tuple[Path, str]:
    """A model whose tokenizer cannot be read, and what compress wrote on stderr."""
    folder = write_checkpoint(tmp_path / "model", tokenizer=False)
    (folder / "tekken.json").write_text("{}")
    path = tmp_path / "model.rbe"
    done = rbe("compress", folder, path, "--calib-samples", 4)
    assert done.code == 0
    return path, done.err


def test_what_cannot_be_read_is_named_everywhere(
    rbe: Rbe, compressed_with_note: tuple[Path, str]
) -> None:
    path, note = compressed_with_note
    assert f"the file will take token ids only: {REASON}" in note
    assert f"none, so token ids only ({REASON})" in rbe("inspect", path).out
    found = rbe("inspect", path, "--format", "json").json["tokenizer"]
    assert found == {"kind": None, "tokens": None, "missing": REASON}
    asked = rbe("generate", path, "text")
    assert asked.code == 2
    assert f"the model has no tokenizer ({REASON})" in asked.err


def test_inspect_tells_the_kind_and_size(rbe: Rbe, rbe_file: Path, bare_file: Path) -> None:
    found = rbe("inspect", rbe_file, "--format", "json").json["tokenizer"]
    assert found == {"kind": "BPE", "tokens": 300, "missing": None}
    assert "BPE of 300 tokens" in rbe("inspect", rbe_file).out
    found = rbe("inspect", bare_file, "--format", "json").json["tokenizer"]
    assert found == {"kind": None, "tokens": None, "missing": "the checkpoint has none"}
