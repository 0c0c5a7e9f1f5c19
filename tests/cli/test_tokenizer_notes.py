"""What `compress`, `inspect` and `generate` say about a model's tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.container.reader import Container
from rbe_cli.container.writer import write_container

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


def test_a_damaged_tokenizer_in_a_file_names_the_file(
    rbe: Rbe, rbe_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.rbe"
    with Container.open(rbe_file) as tiny:
        write_container(
            path,
            config=tiny.config,
            tensors=list(tiny.tensors.values()),
            tokenizer_json=b"{}",
            provenance=tiny.provenance,
        )
    done = rbe("generate", path, "text")
    assert done.code == 3
    assert done.err.startswith(f"rbe: {path}: the tokenizer cannot be read: ")
    assert done.err.count("\n") == 1


def test_a_pattern_that_makes_the_library_panic_is_one_sentence(
    start: Callable[..., Any], rbe_file: Path, tmp_path: Path
) -> None:
    """In a process of its own, where Rust would write its report to the real stderr."""
    path = tmp_path / "slow.rbe"
    slow = {"Regex": "(a|aa)+$"}
    with Container.open(rbe_file) as tiny:
        raw = json.loads(tiny.tokenizer_json() or b"")
        split = {"type": "Split", "pattern": slow, "behavior": "Isolated", "invert": False}
        write_container(
            path,
            config=tiny.config,
            tensors=list(tiny.tensors.values()),
            tokenizer_json=json.dumps(raw | {"pre_tokenizer": split}).encode(),
            provenance=tiny.provenance,
        )
    process = start("generate", path, "a" * 60 + "b")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3
    assert err.startswith("rbe: the tokenizer cannot encode the text: ")
    assert err.count("\n") == 1
