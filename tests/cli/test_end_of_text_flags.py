"""A model with two end-of-text tokens: `generate` ends at either, and `inspect` names both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbe_cli.container.reader import Container
from rbe_cli.container.writer import write_container

Rbe = Callable[..., Any]
GREEDY = ("--greedy", "--max-tokens", 12, "--format", "json", "-q")
PROMPT = "The quick brown"


@pytest.fixture
def tokens(rbe: Rbe, rbe_file: Path) -> list[int]:
    """What the tiny model, which has no end-of-text token, writes."""
    return rbe("generate", rbe_file, PROMPT, *GREEDY).json["tokens"]


@pytest.fixture
def two_ends(tmp_path: Path, rbe_file: Path, tokens: list[int]) -> Path:
    """The tiny model, with the last token that it writes and another one as ends."""
    unused = next(token for token in range(300) if token not in tokens)
    path = tmp_path / "two-ends.rbe"
    with Container.open(rbe_file) as tiny:
        write_container(
            path,
            config=msgspec.structs.replace(tiny.config, eos_token_id=(unused, tokens[-1])),
            tensors=list(tiny.tensors.values()),
            tokenizer_json=tiny.tokenizer_json(),
            provenance=tiny.provenance,
        )
    return path


def test_any_end_token_ends_the_text(rbe: Rbe, two_ends: Path, tokens: list[int]) -> None:
    record = rbe("generate", two_ends, PROMPT, *GREEDY).json
    assert record["tokens"] == tokens[: tokens.index(tokens[-1]) + 1]
    assert record["finish_reason"] == "eos"


def test_ignore_eos_goes_on(rbe: Rbe, two_ends: Path, tokens: list[int]) -> None:
    record = rbe("generate", two_ends, PROMPT, *GREEDY, "--ignore-eos").json
    assert record["tokens"] == tokens
    assert record["finish_reason"] == "length"


def test_inspect_names_the_end_tokens(
    rbe: Rbe, two_ends: Path, rbe_file: Path, tokens: list[int]
) -> None:
    ends = rbe("inspect", two_ends, "--format", "json").json["config"]["eos_token_id"]
    assert ends[1] == tokens[-1]
    assert f"tokens {ends[0]}, {ends[1]}" in rbe("inspect", two_ends).out
    assert "no token" in rbe("inspect", rbe_file).out
