"""One text, however it is printed: with tokenizers whose text depends on what stands before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import unlike_tokenizers

from rbe_cli.container.reader import Container
from rbe_cli.container.writer import write_container

Rbe = Callable[..., Any]
PROMPT = "the cat"
# Hot enough that bytes without a character are drawn.
HOT = ("--temperature", 5, "--top-k", 0, "--top-p", 1, "--seed", 3, "--max-tokens", 24, "-q")


@pytest.fixture(params=["byte_fallback", "word_piece"])
def model(request: pytest.FixtureRequest, tmp_path: Path, rbe_file: Path) -> Path:
    """The tiny model with another tokenizer; ids beyond its vocabulary have no text."""
    tokenizer = getattr(unlike_tokenizers, request.param)()
    path = tmp_path / "model.rbe"
    with Container.open(rbe_file) as tiny:
        write_container(
            path,
            config=tiny.config,
            tensors=list(tiny.tensors.values()),
            tokenizer_json=tokenizer.to_str().encode(),
            provenance=tiny.provenance,
        )
    return path


def test_every_style_gives_the_same_text(
    rbe: Rbe, model: Path, type_in: Callable[[bytes], None]
) -> None:
    record = rbe("generate", model, PROMPT, *HOT, "--format", "json").json
    text = record["text"]
    assert record["generated_tokens"] == 24
    *steps, summary = rbe("generate", model, PROMPT, *HOT, "--format", "jsonl").lines
    assert "".join(step["text"] for step in steps) == summary["text"] == text
    shown = f"{PROMPT}{text}\n"
    assert rbe("generate", model, PROMPT, *HOT).out == shown
    assert rbe("generate", model, PROMPT, *HOT, "--no-stream").out == shown
    assert rbe("generate", model, PROMPT, *HOT, "--format", "quiet").out == f"{text}\n"
    rows = rbe("generate", model, PROMPT, *HOT, "--batch", 2, "--format", "json").json
    assert rows[0]["text"] == text
    assert rbe("generate", model, PROMPT, *HOT, "--batch", 2).out.startswith(f"[1] {shown}")
    type_in(f"{PROMPT}\n".encode())
    assert rbe("generate", model, "--interactive", *HOT).out == shown


def test_a_stop_string_cuts_the_same_text(rbe: Rbe, model: Path) -> None:
    text = rbe("generate", model, PROMPT, *HOT, "--format", "json").json["text"]
    stop = text[len(text) // 2 :][:2]
    *steps, summary = rbe(
        "generate", model, PROMPT, *HOT, "--stop", stop, "--format", "jsonl"
    ).lines
    assert summary["text"] == text.split(stop)[0]
    assert "".join(step["text"] for step in steps) == summary["text"]
