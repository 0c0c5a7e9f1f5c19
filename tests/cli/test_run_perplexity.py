"""`rbe run`: perplexity over a text, and the comparison with the original."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.progress import Progress

Rbe = Callable[..., Any]
TEXT = "The quick brown fox jumps over the lazy dog. It was the best of times"
Forward = Callable[..., dict[str, Any]]
WINDOW_FIELDS = ["context", "stride", "windows", "unit"]

# Perplexity


def test_perplexity_over_a_whole_text(
    forward: Forward, rbe: Rbe, rbe_file: Path, long_text: Path
) -> None:
    record = forward("-f", long_text, "--perplexity")
    too_long = rbe("run", rbe_file, "-f", long_text)
    tokens = int(too_long.err.removeprefix("rbe: ").split()[0])
    tokens += 1  # the last line's end, which is not part of the input of one pass
    assert record["tokens"] == tokens - -(-tokens // 64)  # each window's first is not predicted
    assert record["perplexity"] == pytest.approx(math.exp(record["loss"]))
    assert record["top"] == []


def test_a_stride_gives_every_token_context(forward: Forward, long_text: Path) -> None:
    apart = forward("-f", long_text, "--perplexity", "--context", 16)
    sliding = forward("-f", long_text, "--perplexity", "--context", 16, "--stride", 4)
    whole = forward("-f", long_text, "--perplexity")
    assert sliding["tokens"] > whole["tokens"] > apart["tokens"]
    assert len({record["loss"] for record in (apart, sliding, whole)}) == 3


def test_perplexity_of_one_window_is_that_of_a_forward_pass(forward: Forward) -> None:
    record, single = forward(TEXT, "--perplexity"), forward(TEXT)
    assert record["loss"] == pytest.approx(single["loss"], rel=1e-6)
    assert record["tokens"] == single["tokens"] - 1


def test_perplexity_over_several_sequences(forward: Forward, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("5 6 7\n8 9\n1 2 3 4\n")
    assert forward("--tokens", tmp_path / "ids.txt", "--perplexity")["tokens"] == 2 + 1 + 3


def test_the_window_and_the_errors_are_told(forward: Forward, long_text: Path) -> None:
    record = forward("-f", long_text, "--perplexity", "--context", 16, "--stride", 4)
    assert list(record["window"]) == WINDOW_FIELDS
    assert record["window"]["context"] == 16
    assert record["window"]["stride"] == 4
    assert record["window"]["windows"] == -(-(record["tokens"] - 15) // 4) + 1
    assert record["window"]["unit"] == "window"
    assert 0 < record["loss_error"] < record["loss"]
    expected = record["loss_error"] * record["perplexity"]
    assert record["perplexity_error"] == pytest.approx(expected)
    few = forward(TEXT, "--perplexity")["window"]
    assert few == {"context": 64, "stride": 64, "windows": 1, "unit": "token"}


def test_people_see_the_window_and_the_errors(
    rbe: Rbe, rbe_file: Path, long_text: Path, checkpoint: Path
) -> None:
    out = rbe("run", rbe_file, "-f", long_text, "--perplexity", "--reference", checkpoint).out
    assert re.search(r"windows +\d+ of 64 tokens, every 64\n", out)
    assert re.search(r"\nperplexity +\d+\.\d{3} ± \d", out)
    assert re.search(r"KL divergence +0\.\d{6} ± 0\.\d{6} nats a token\n", out)
    for text in ("99th percentile", "maximum", "same likeliest token", "the windows taken as"):
        assert text in out


# The original as reference


def test_the_original_as_reference(forward: Forward, long_text: Path, checkpoint: Path) -> None:
    record = forward("-f", long_text, "--perplexity", "--reference", checkpoint)
    assert 0 < record["kl_divergence"] < 0.0045
    assert record["reference_perplexity"] == pytest.approx(record["perplexity"], rel=0.1)
    assert [layer["layer"] for layer in record["layers"]] == [0, 1]
    assert all(0 < layer["relative_error"] < 0.5 for layer in record["layers"])
    assert 0 < record["kl_divergence_error"] < record["kl_divergence"]
    assert record["kl_divergence"] < record["kl_divergence_p99"] < record["kl_divergence_max"]
    assert 0.5 < record["top_1_agreement"] <= 1
    ratio = record["perplexity"] / record["reference_perplexity"]
    assert record["perplexity_ratio"] == pytest.approx(ratio)
    assert 0 < record["perplexity_ratio_error"] < record["reference_perplexity_error"]


def test_another_rbe_file_as_reference(
    forward: Forward, rbe: Rbe, checkpoint: Path, rbe_file: Path, long_text: Path, tmp_path: Path
) -> None:
    measure = ("-f", long_text, "--perplexity", "--reference")
    same = forward(*measure, rbe_file)
    assert (same["kl_divergence"], same["top_1_agreement"]) == (0, 1)
    assert same["perplexity_ratio"] == 1
    exact = tmp_path / "exact"  # no suffix: what it is decides
    rbe("compress", checkpoint, exact, "--calib-samples", 8, "--override", ".*=codec=float32")
    found, expected = forward(*measure, exact), forward(*measure, checkpoint)
    assert found["kl_divergence"] == pytest.approx(expected["kl_divergence"], rel=1e-4)
    assert found["reference_perplexity"] == pytest.approx(expected["reference_perplexity"])


def test_a_damaged_reference_is_refused(rbe: Rbe, rbe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.rbe").write_bytes(rbe_file.read_bytes()[:-100])
    done = rbe("run", rbe_file, TEXT, "--reference", tmp_path / "cut.rbe")
    assert (done.code, done.out) == (3, "")
    assert "cut.rbe" in done.err


def test_a_forward_pass_can_have_a_reference(
    forward: Forward, rbe: Rbe, rbe_file: Path, checkpoint: Path
) -> None:
    record, alone = forward(TEXT, "--reference", checkpoint), forward(TEXT)
    assert record["kl_divergence"] > 0
    assert len(record["layers"]) == 2
    assert record["window"] == alone["window"]
    for same in ("tokens", "loss", "loss_error", "perplexity", "top", "logprobs"):
        assert record[same] == alone[same]


def test_a_reference_that_is_downloaded_shows_its_progress(
    rbe: Rbe, rbe_file: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, *, offline: bool, progress: Progress) -> Checkpoint:
        progress(name, 0, 100)
        return open_checkpoint(str(checkpoint))

    monkeypatch.setattr("rbe_cli.checkpoint.source.open_checkpoint", download)
    done = rbe("run", rbe_file, TEXT, "--reference", "org/name")
    assert done.code == 0
    assert "org/name ...\n" in done.err


def test_a_model_stored_as_it_is_does_not_differ_from_its_original(
    rbe: Rbe, checkpoint: Path, tmp_path: Path
) -> None:
    exact = tmp_path / "exact.rbe"
    rbe("compress", checkpoint, exact, "--calib-samples", 8, "--override", ".*=codec=float32")
    record = rbe("run", exact, TEXT, "--reference", checkpoint, "--format", "json").json
    assert record["kl_divergence"] == pytest.approx(0, abs=1e-9)
    assert [layer["relative_error"] for layer in record["layers"]] == [0, 0]
    assert record["reference_perplexity"] == pytest.approx(record["perplexity"], rel=1e-6)
