"""`rbe run`: one forward pass, the engines, the forms of its output, and a profile."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbe_cli.cli.run_verb import NPY_START
from rbe_cli.text.tokenizer import Tokenizer

Rbe = Callable[..., Any]
TEXT = "The quick brown fox jumps over the lazy dog. It was the best of times"


Forward = Callable[..., dict[str, Any]]

# One forward pass


def test_logits_and_what_follows_from_them(forward: Forward, tmp_path: Path) -> None:
    ids = [40, 84, 290, 7, 0, 299]
    (tmp_path / "ids.txt").write_text(" ".join(map(str, ids)))
    record = forward("--tokens", tmp_path / "ids.txt", "--logits", tmp_path / "logits.npy")

    logits = np.load(tmp_path / "logits.npy").astype(np.float64)
    assert logits.shape == (6, 300)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert record["tokens"] == 6
    assert record["loss"] == pytest.approx(-log_p[range(5), ids[1:]].mean(), rel=1e-5)
    assert record["perplexity"] == pytest.approx(math.exp(record["loss"]))
    likeliest = np.argsort(-log_p[-1])[:10]
    assert [entry["token"] for entry in record["top"]] == likeliest.tolist()
    for entry in record["top"]:
        assert entry["probability"] == pytest.approx(np.exp(log_p[-1, entry["token"]]), rel=1e-4)
        assert isinstance(entry["text"], str)
    assert (record["reference_perplexity"], record["kl_divergence"]) == (None, None)
    assert (record["layers"], record["profile"]) == ([], [])


def test_hidden_states_of_every_block(forward: Forward, tmp_path: Path) -> None:
    tokens = forward(TEXT, "--hidden", tmp_path / "hidden.npz")["tokens"]
    with np.load(tmp_path / "hidden.npz") as hidden:
        shapes = {name: array.shape for name, array in hidden.items()}
        assert all(np.isfinite(array).all() for array in hidden.values())
    assert shapes == {"h.0": (tokens, 32), "h.1": (tokens, 32)}


@pytest.mark.parametrize(("k", "count"), [(0, 0), (3, 3), (1000, 300)])
def test_top_k(forward: Forward, k: int, count: int) -> None:
    top = forward(TEXT, "--top-k", k)["top"]
    probabilities = [entry["probability"] for entry in top]
    assert len(top) == count
    assert probabilities == sorted(probabilities, reverse=True)
    assert count < 300 or sum(probabilities) == pytest.approx(1, abs=1e-4)


def test_text_file_and_stdin_are_the_same_input(
    forward: Forward, tmp_path: Path, type_in: Callable[[bytes], None]
) -> None:
    text = "The fox\njumps, über the dög"
    (tmp_path / "text.txt").write_bytes(text.replace("\n", "\r\n").encode())
    expected = forward(text)
    assert forward("-f", tmp_path / "text.txt") == expected
    type_in(text.replace("\n", "\r\n").encode())
    assert forward("-") == expected


def test_perplexity_takes_a_text_as_it_is(
    forward: Forward, tmp_path: Path, type_in: Callable[[bytes], None]
) -> None:
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfThe fox\r\n")
    expected = forward("The fox\n", "--perplexity")
    assert forward("-f", tmp_path / "text.txt", "--perplexity") == expected
    type_in(b"The fox\n")
    assert forward("-f", "-", "--perplexity") == expected
    assert forward("-f", tmp_path / "text.txt") == forward("The fox")


def test_one_token_has_no_loss(forward: Forward, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("5")
    record = forward("--tokens", tmp_path / "ids.txt")
    assert (record["tokens"], record["loss"], record["perplexity"]) == (1, None, None)
    assert len(record["top"]) == 10


def test_without_a_tokenizer_tokens_have_no_text(rbe: Rbe, bare_file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([3, 1, 4]))
    done = rbe("run", bare_file, "--tokens", tmp_path / "ids.npy", "--format", "json")
    assert {entry["text"] for entry in done.json["top"]} == {None}


def test_an_existing_output_is_kept_without_force(rbe: Rbe, rbe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "logits.npy"
    out.write_bytes(NPY_START + b"precious")
    for flag in ("--logits", "--hidden"):
        done = rbe("run", rbe_file, TEXT, flag, out)
        assert (done.code, done.out) == (1, "")
        assert done.err == f"rbe: {out} exists; use --force to replace it\n"
    assert out.read_bytes() == NPY_START + b"precious"
    assert rbe("run", rbe_file, TEXT, "--logits", out, "--force").code == 0
    assert np.load(out).shape[1] == 300


def test_force_replaces_no_file_of_another_kind(rbe: Rbe, rbe_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.rbe"
    shutil.copy(rbe_file, model)
    for flag in ("--logits", "--hidden"):
        done = rbe("run", model, TEXT, flag, model, "--force")
        assert done.code == 1
        assert "a file of another kind" in done.err
    both = ("--logits", tmp_path / "x", "--hidden", tmp_path / "x")
    assert rbe("run", model, TEXT, *both).code == 2
    assert model.read_bytes() == rbe_file.read_bytes()


def test_a_model_that_is_surer_than_floats_can_tell(
    rbe: Rbe, write_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    scale = np.full(32, 3000, np.float32)
    loud = write_checkpoint(tmp_path / "loud", **{"ln_f.weight": scale})
    file = tmp_path / "loud.rbe"
    rbe("compress", loud, file, "--calib-samples", 8, "--target-bpw", 8, "-q")
    for style in ([], ["--perplexity"]):
        done = rbe("run", file, TEXT, *style, "--format", "json", "-q")
        assert (done.code, done.err) == (0, "")
        assert done.json["loss"] > 710
        assert done.json["perplexity"] is None
    assert "perplexity  inf" in rbe("run", file, TEXT).out


# Log-probabilities


def test_each_token_has_its_log_probability(
    forward: Forward, tmp_path: Path, tokenizer_json: bytes
) -> None:
    record = forward(TEXT, "--logprobs", "--logits", tmp_path / "logits.npy")
    tokenizer = Tokenizer(tokenizer_json, 300)
    ids = tokenizer.encode(TEXT).tolist()
    logits = np.load(tmp_path / "logits.npy").astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    first, *others = record["logprobs"]
    assert [list(own) for own in record["logprobs"]] == [
        ["token", "text", "logprob", "rank"]
    ] * len(ids)
    assert [own["token"] for own in record["logprobs"]] == ids
    assert "".join(own["text"] for own in record["logprobs"]) == TEXT
    assert (first["logprob"], first["rank"]) == (None, None)
    for i, own in enumerate(others):
        assert own["logprob"] == pytest.approx(log_p[i, ids[i + 1]], rel=1e-5)
        assert own["rank"] == 1 + np.sum(log_p[i] > log_p[i, ids[i + 1]])
    assert -np.mean([own["logprob"] for own in others]) == pytest.approx(record["loss"])


def test_bytes_of_a_character_have_the_replacement_character(forward: Forward) -> None:
    record = forward("é🙂", "--logprobs")
    texts = [own["text"] for own in record["logprobs"]]
    assert len(texts) == 6
    assert set(texts) == {"\ufffd"}


def test_one_token_has_no_log_probability(forward: Forward, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("5")
    (only,) = forward("--tokens", tmp_path / "ids.txt", "--logprobs")["logprobs"]
    assert (only["token"], only["logprob"], only["rank"]) == (5, None, None)


def test_people_see_log_probabilities(rbe: Rbe, rbe_file: Path, forward: Forward) -> None:
    done = rbe("run", rbe_file, TEXT, "--logprobs", "--top-k", 0)
    assert "logprob" in done.out
    for own in forward(TEXT, "--logprobs")["logprobs"][1:]:
        assert f"{own['logprob']:.4f}" in done.out


def test_without_a_tokenizer_log_probabilities_have_no_text(
    rbe: Rbe, bare_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text("5 6")
    done = rbe("run", bare_file, "--tokens", tmp_path / "ids.txt", "--logprobs", "--format", "json")
    assert [own["text"] for own in done.json["logprobs"]] == [None, None]
    assert done.json["logprobs"][1]["logprob"] < 0


# The engines


def test_the_engines_agree(forward: Forward, tmp_path: Path) -> None:
    for engine in ("fast", "reference"):
        forward(TEXT, "--engine", engine, "--logits", tmp_path / f"{engine}.npy")
    fast, reference = (np.load(tmp_path / f"{name}.npy") for name in ("fast", "reference"))
    assert np.abs(fast - reference).max() <= 1e-4 * np.abs(reference).max()


def test_the_engines_agree_on_perplexity(forward: Forward, long_text: Path) -> None:
    measure = ("-f", long_text, "--perplexity")
    fast, reference = forward(*measure), forward(*measure, "--engine", "reference")
    assert fast["perplexity"] == pytest.approx(reference["perplexity"], rel=1e-4)


def test_results_do_not_depend_on_the_threads(
    forward: Forward, long_text: Path, checkpoint: Path
) -> None:
    measure = ("-f", long_text, "--perplexity", "--reference", checkpoint)
    assert forward(*measure, "--threads", 1) == forward(*measure, "--threads", 3)
    assert forward(TEXT, "--threads", 1) == forward(TEXT, "--threads", 2)


# For people and scripts


def test_people_see_tables(rbe: Rbe, rbe_file: Path, checkpoint: Path) -> None:
    done = rbe("run", rbe_file, TEXT, "--reference", checkpoint, "--top-k", 4)
    for text in ("perplexity", "KL divergence", "next token", "probability", "relative error"):
        assert text in done.out
    assert not any(line.endswith(" ") for line in done.out.splitlines())


def test_jsonl_is_one_line(rbe: Rbe, rbe_file: Path, forward: Forward) -> None:
    assert rbe("run", rbe_file, TEXT, "--format", "jsonl").lines == [forward(TEXT)]


def test_quiet_prints_nothing(rbe: Rbe, rbe_file: Path) -> None:
    done = rbe("run", rbe_file, TEXT, "--format", "quiet", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")


# What cannot be done


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([TEXT, "--perplexity", "--logits", "x.npy"], "--logits and --hidden belong to one"),
        ([TEXT, "--perplexity", "--hidden", "x.npz"], "--logits and --hidden belong to one"),
        ([TEXT, "--context", "8"], "--context and --stride belong to --perplexity"),
        ([TEXT, "--stride", "8"], "--context and --stride belong to --perplexity"),
        (
            [TEXT, "--perplexity", "--context", "65"],
            "--context 65 is not between 2 and the model's",
        ),
        (
            [TEXT, "--perplexity", "--stride", "65"],
            "--stride 65 is not between 1 and the context's 64",
        ),
        ([TEXT, "--top-k", "-1"], "--top-k"),
        ([TEXT, "--engine", "cuda"], "--engine"),
        ([TEXT, "--perplexity", "--logprobs"], "--logprobs belongs to one forward pass"),
        ([TEXT, "--reference", "demo"], "--reference demo has another shape"),
        ([TEXT, "--reference", "demo"], "its vocab_size is 3072, not 300"),
        ([f"{TEXT} " * 3], "tokens are more than the model's context of 64"),
    ],
)
def test_bad_usage_is_named(rbe: Rbe, rbe_file: Path, arguments: list[str], sentence: str) -> None:
    done = rbe("run", rbe_file, *arguments)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err


def test_one_pass_takes_one_sequence(rbe: Rbe, rbe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("5 6 7\n8 9\n")
    done = rbe("run", rbe_file, "--tokens", tmp_path / "ids.txt")
    assert done.code == 2
    assert "one forward pass takes one sequence" in done.err


def test_perplexity_needs_two_tokens(rbe: Rbe, rbe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("5")
    done = rbe("run", rbe_file, "--tokens", tmp_path / "ids.txt", "--perplexity")
    assert done.code == 2
    assert "perplexity needs at least two tokens" in done.err


# Profile


def test_a_profile_has_a_row_for_each_layer(forward: Forward) -> None:
    record = forward(TEXT, "--profile")
    assert [row["layer"] for row in record["profile"]] == list(range(len(record["profile"])))
    assert len(record["profile"]) > 0
    for row in record["profile"]:
        *parts, total, peak = list(row.values())[1:]
        assert list(row) == [
            "layer", "ln_1_ns", "attention_ns", "ln_2_ns", "feed_forward_ns", "residual_ns",
            "total_ns", "peak_memory_bytes",
        ]  # fmt: skip
        assert min(parts) > 0
        assert total == sum(parts)
        assert peak > 0
    peaks = [row["peak_memory_bytes"] for row in record["profile"]]
    assert max(peaks) <= 1.01 * min(peaks)  # the layers are alike


def test_a_profile_for_people(rbe: Rbe, rbe_file: Path) -> None:
    done = rbe("run", rbe_file, TEXT, "--profile", "--format", "human")
    assert done.code == 0
    assert "feed-forward" in done.out
    assert " ms" in done.out


def test_a_profile_is_of_one_forward_pass(rbe: Rbe, rbe_file: Path) -> None:
    done = rbe("run", rbe_file, TEXT, "--profile", "--perplexity")
    assert done.code == 2
    assert "--profile belongs to one forward pass" in done.err
