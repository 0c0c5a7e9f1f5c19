"""`rbe generate`: what people and scripts see of it, log-probabilities, and no tokenizer."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from record_fields import GENERATE_FIELDS

from rbe_cli.cli import generate as generate_module
from rbe_cli.text.tokenizer import Tokenizer

Rbe = Callable[..., Any]
Generate = Callable[..., Any]
PROMPT = "The quick brown"
STEP_FIELDS = ["row", "token", "text", "finish_reason"]

# For people


def test_people_see_the_prompt_and_its_continuation(
    rbe: Rbe, rbe_file: Path, generate: Generate
) -> None:
    expected = f"{PROMPT}{generate(PROMPT, '--seed', 1)['text']}\n"
    streamed = rbe("generate", rbe_file, PROMPT, "--seed", 1)
    assert streamed.out == expected
    assert "ended by context, seed 1" in streamed.err
    whole = rbe("generate", rbe_file, PROMPT, "--seed", 1, "--no-stream", "-q")
    assert (whole.out, whole.err) == (expected, "")


def test_text_is_streamed_as_it_is_written(
    rbe: Rbe, rbe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(generate_module.Output, "write", lambda self, text: pieces.append(text))
    rbe("generate", rbe_file, PROMPT, "--max-tokens", 9)
    assert len(pieces) == 1 + 9 + 1
    pieces.clear()
    rbe("generate", rbe_file, PROMPT, "--max-tokens", 9, "--no-stream")
    assert len(pieces) == 2


def test_people_see_a_batch_numbered(rbe: Rbe, rbe_file: Path) -> None:
    options = ["--batch", 2, "--max-tokens", 3, "--greedy"]
    first, second = rbe("generate", rbe_file, PROMPT, *options).out.split("\n[2] ")
    assert first == f"[1] {second.rstrip()}"


# For scripts


def test_jsonl_is_a_line_a_step_and_then_the_summary(
    rbe: Rbe, rbe_file: Path, generate: Generate
) -> None:
    *steps, summary = rbe(
        "generate", rbe_file, PROMPT, "--seed", 1, "--max-tokens", 9, "--format", "jsonl"
    ).lines
    assert [list(step) for step in steps] == [STEP_FIELDS] * 9
    assert list(summary) == GENERATE_FIELDS
    assert [step["token"] for step in steps] == summary["tokens"]
    assert "".join(step["text"] for step in steps) == summary["text"]
    assert [step["finish_reason"] for step in steps] == [None] * 8 + ["length"]
    assert summary["text"] == generate(PROMPT, "--seed", 1, "--max-tokens", 9)["text"]


def test_jsonl_of_a_batch_names_the_rows(rbe: Rbe, rbe_file: Path) -> None:
    options = ["--batch", 2, "--max-tokens", 3, "--format", "jsonl"]
    lines = rbe("generate", rbe_file, PROMPT, *options).lines
    assert sorted(line["row"] for line in lines[:6]) == [0, 0, 0, 1, 1, 1]
    assert [list(line) for line in lines[6:]] == [GENERATE_FIELDS, GENERATE_FIELDS]


def test_quiet_is_the_new_text_alone(rbe: Rbe, rbe_file: Path, generate: Generate) -> None:
    options = [PROMPT, "--seed", 1, "--max-tokens", 9]
    done = rbe("generate", rbe_file, *options, "--format", "quiet", "-q")
    assert (done.out, done.err) == (f"{generate(*options)['text']}\n", "")


# Log-probabilities


def test_log_probabilities_belong_to_the_tokens(
    generate: Generate, rbe: Rbe, rbe_file: Path, tmp_path: Path, tokenizer_json: bytes
) -> None:
    options = ["--seed", 1, "--max-tokens", 9, "--logprobs", 3, "--activations", "16"]
    record = generate(PROMPT, *options)
    assert list(record) == [*GENERATE_FIELDS, "logprobs"]
    assert [own["token"] for own in record["logprobs"]] == record["tokens"]
    tokenizer = Tokenizer(tokenizer_json, 300)
    ids = [*tokenizer.encode(PROMPT).tolist(), *record["tokens"]]
    (tmp_path / "ids.txt").write_text(" ".join(map(str, ids)))
    scored = rbe("run", rbe_file, "--tokens", tmp_path / "ids.txt", "--logprobs", "-q",
                 "--format", "json").json["logprobs"][-9:]  # fmt: skip
    for own, other in zip(record["logprobs"], scored, strict=True):
        assert list(own) == ["token", "text", "logprob", "top"]
        assert own["logprob"] == pytest.approx(other["logprob"], abs=2e-3)  # the engine rounds
        assert own["text"] == other["text"]
        assert [list(entry) for entry in own["top"]] == [["token", "text", "logprob"]] * 3
        assert (own["top"][0]["token"] == own["token"]) == (other["rank"] == 1)


def test_sampling_options_leave_log_probabilities_alone(generate: Generate) -> None:
    shared = [PROMPT, "--max-tokens", 1, "--logprobs", 1000]
    plain = generate(*shared, "--seed", 1)["logprobs"][0]
    odd = ["--temperature", 3, "--top-k", 2, "--repetition-penalty", 5, "--min-p", 0.01]
    (changed,) = generate(*shared, "--seed", 1, *odd)["logprobs"]
    assert changed["top"] == plain["top"]
    assert len(plain["top"]) == 300  # the whole vocabulary
    assert sum(math.exp(own["logprob"]) for own in plain["top"]) == pytest.approx(1, abs=1e-9)
    (own,) = [entry for entry in plain["top"] if entry["token"] == plain["token"]]
    assert own["logprob"] == plain["logprob"]


def test_no_alternatives_are_the_token_alone(generate: Generate) -> None:
    record = generate(PROMPT, "--max-tokens", 3, "--logprobs", 0)
    assert [own["top"] for own in record["logprobs"]] == [[], [], []]
    assert all(own["logprob"] < 0 for own in record["logprobs"])


@pytest.mark.parametrize("more", [[], ["--batch", 2], ["--no-lookup"]])
def test_jsonl_has_them_step_by_step(rbe: Rbe, rbe_file: Path, more: list[object]) -> None:
    options = ["--greedy", "--max-tokens", 30, "--logprobs", 1, "--format", "jsonl", *more]
    lines = rbe("generate", rbe_file, PROMPT, *options).lines
    steps, summaries = [own for own in lines if "row" in own], [o for o in lines if "row" not in o]
    for row, summary in enumerate(summaries):
        own = [step["logprobs"] for step in steps if step["row"] == row]
        assert own == summary["logprobs"]
        assert [entry["token"] for entry in own] == summary["tokens"]
        assert [entry["top"][0]["token"] for entry in own] == summary["tokens"]  # greedy
        assert [entry["top"][0]["logprob"] for entry in own] == [e["logprob"] for e in own]


def test_tokens_of_a_stop_string_have_them_too(generate: Generate) -> None:
    whole = generate(PROMPT, "--seed", 5, "--max-tokens", 30)["text"]
    record = generate(
        PROMPT, "--seed", 5, "--max-tokens", 30, "--stop", whole[12:14], "--logprobs", 1
    )
    assert record["finish_reason"] == "stop"
    assert [own["token"] for own in record["logprobs"]] == record["tokens"]
    assert len("".join(own["text"] for own in record["logprobs"])) > len(record["text"])


# Without a tokenizer


@pytest.mark.parametrize("style", [[], ["--no-stream"], ["--format", "quiet"]])
def test_without_a_tokenizer_ids_are_written(
    rbe: Rbe, bare_file: Path, token_file: Path, style: list[str]
) -> None:
    options = ["--tokens", token_file, "--seed", 1, "--max-tokens", 3, "-q"]
    token_file.write_text("5 6 7\n")
    record = rbe("generate", bare_file, *options, "--format", "json").json
    assert (record["prompt"], record["text"]) == (None, "")
    done = rbe("generate", bare_file, *options, *style)
    assert done.out.split() == [str(token) for token in record["tokens"]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([PROMPT], "the model has no tokenizer (the checkpoint has none): give token ids"),
        (["--interactive"], "--interactive needs a tokenizer"),
    ],
)
def test_without_a_tokenizer_there_is_no_text(
    rbe: Rbe, bare_file: Path, arguments: list[str], sentence: str
) -> None:
    done = rbe("generate", bare_file, *arguments)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err


def test_without_a_tokenizer_there_are_no_stop_strings(
    rbe: Rbe, bare_file: Path, token_file: Path
) -> None:
    done = rbe("generate", bare_file, "--tokens", token_file, "--stop", "x")
    assert (done.code, done.out) == (2, "")
    assert "--stop needs a tokenizer" in done.err
