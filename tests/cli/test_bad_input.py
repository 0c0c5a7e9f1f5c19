"""Whatever is wrong with what a verb is given: one sentence, its exit code, nothing on stdout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rbe_cli.cli.app import run

Rbe = Callable[..., Any]
Refused = Callable[..., str]

# The command line itself


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["frobnicate"], "frobnicate"),
        (["--frobnicate"], "--frobnicate"),
        (["inspect"], "FILE.rbe"),
        (["inspect", "a.rbe", "b.rbe"], "b.rbe"),
        (["inspect", "a.rbe", "--format", "xml"], "--format"),
        (["inspect", "a.rbe", "--format"], "--format"),
        (["generate", "a.rbe", "x", "--max-tokens", "many"], "--max-tokens"),
        (["compress", "demo"], "OUT.rbe"),
        (["compress", "demo", "a.rbe", "--calib-samples", "0"], "--calib-samples"),
        (["run", "a.rbe", "x", "--threads", "0"], "--threads"),
    ],
)
def test_a_command_line_that_makes_no_sense(
    refused: Refused, arguments: list[str], named: str
) -> None:
    assert named in refused(2, *arguments)


def test_no_command_shows_the_help(rbe: Rbe) -> None:
    assert rbe() == rbe("--help")
    assert rbe().code == 0


@pytest.mark.parametrize("style", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("code", "arguments"), [(4, ["inspect", "né.rbe"]), (2, ["inspect"]), (3, ["inspect", "."])]
)
def test_scripts_get_errors_as_json(rbe: Rbe, style: str, code: int, arguments: list[str]) -> None:
    for form in (["--format", style], [f"--format={style}"]):
        done = rbe(*arguments, *form)
        assert (done.code, done.out) == (code, "")
        assert done.err.count("\n") == 1
        error = json.loads(done.err)
        assert list(error) == ["error"]
        assert list(error["error"]) == ["code", "message"]
        assert error["error"]["code"] == code
        assert rbe(*arguments).err == f"rbe: {error['error']['message']}\n"


def test_only_verbose_shows_a_traceback(rbe: Rbe) -> None:
    plain, verbose = rbe("inspect", "none.rbe"), rbe("inspect", "none.rbe", "-v")
    assert plain.err == "rbe: none.rbe does not exist\n"
    assert verbose.err.startswith("Traceback (most recent call last):\n")
    assert verbose.err.endswith(f"\n{plain.err}")
    assert (plain.code, verbose.code) == (4, 4)


def test_an_error_nobody_thought_of_is_a_sentence_too(
    rbe: Rbe, rbe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("rbe_cli.container.reader.Container.open", fail)
    plain = rbe("inspect", rbe_file)
    assert plain.err.startswith("rbe: this is a bug in rbe (ZeroDivisionError: oh). Please report")
    assert "rbe --version -v" in plain.err
    assert plain.err.count("\n") == 1
    error = json.loads(rbe("inspect", rbe_file, "--format", "json").err)["error"]
    assert (error["code"], f"rbe: {error['message']}\n") == (1, plain.err)
    verbose = rbe("inspect", rbe_file, "--verbose")
    assert verbose.code == 1
    assert "Traceback" in verbose.err
    assert "in fail" in verbose.err


# Files that are not there, or are something else


@pytest.mark.parametrize("verb", [["inspect"], ["run"], ["generate"], ["bench", "--model"]])
def test_a_model_that_is_not_one(
    refused: Refused, tmp_path: Path, checkpoint: Path, verb: list[str]
) -> None:
    text = ["x"] if verb[0] in ("run", "generate") else []
    (tmp_path / "empty.rbe").touch()
    assert "none.rbe does not exist" in refused(4, *verb, tmp_path / "none.rbe", *text)
    needed = "none does not exist; an .rbe file is needed: rbe compress makes one"
    assert needed in refused(4, *verb, tmp_path / "none", *text)
    assert "is a folder, not an .rbe file" in refused(3, *verb, tmp_path, *text)
    assert "ends after 0 bytes" in refused(3, *verb, tmp_path / "empty.rbe", *text)
    weights = checkpoint / "model.safetensors"
    sentence = "this is not an .rbe file, but a safetensors file: rbe compress makes one"
    assert sentence in refused(3, *verb, weights, *text)


@pytest.mark.parametrize(
    ("source", "code", "sentence"),
    [
        ("no/such/folder/at-all", 4, "is neither an existing path nor a hub id"),
        ("./nothing", 4, "./nothing does not exist"),
        ("nothing.safetensors", 4, "nothing.safetensors does not exist"),
        ("org/name", 4, "org/name is no local path, not in the cache, and offline"),
        (".", 3, "notes.safetensors is not a safetensors file, or not a whole one"),
        ("hollow", 4, "hollow is an empty folder"),
        ("notes.txt", 3, "notes.txt is no checkpoint"),
        ("notes.safetensors", 3, "notes.safetensors"),
    ],
)
def test_a_source_that_is_no_checkpoint(
    refused: Refused,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    shutil.copy(checkpoint / "config.json", tmp_path)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "notes.txt").write_text("not weights")
    (tmp_path / "notes.safetensors").write_text("not weights")
    assert sentence in refused(code, "compress", source, "out.rbe", "--offline")
    assert not (tmp_path / "out.rbe").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["h.1.mlp.c_fc.weight", "ln_f.bias"])
def test_weights_that_are_not_numbers(
    refused: Refused,
    write_checkpoint: Callable[..., Path],
    tmp_path: Path,
    name: str,
    value: float,
) -> None:
    shape = (32, 128) if name.endswith("weight") else (32,)
    tensor = np.zeros(shape, np.float32)
    tensor.flat[17] = value
    source = write_checkpoint(tmp_path / "broken", **{name: tensor})
    sentence = refused(3, "compress", source, tmp_path / "a.rbe")
    assert sentence == f"tensor {name} holds NaN or infinite values"
    assert not (tmp_path / "a.rbe").exists()


def test_a_tensor_of_another_shape(
    refused: Refused, write_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    wrong = np.zeros((5, 5), np.float32)
    source = write_checkpoint(tmp_path / "broken", **{"wpe.weight": wrong})
    sentence = refused(3, "compress", source, tmp_path / "a.rbe")
    assert "tensor 'wpe.weight' has shape [5, 5] instead of [64, 32]" in sentence


def test_a_checkpoint_cut_short(refused: Refused, checkpoint: Path, tmp_path: Path) -> None:
    source = tmp_path / "cut"
    shutil.copytree(checkpoint, source)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert str(weights) in refused(3, "compress", source, tmp_path / "a.rbe")


# Texts and tokens


@pytest.mark.parametrize("verb", ["run", "generate"])
def test_inputs_that_are_none(
    refused: Refused,
    rbe_file: Path,
    tmp_path: Path,
    type_in: Callable[[bytes], None],
    verb: str,
) -> None:
    type_in(b"")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    none, empty, latin = (tmp_path / f"{name}.txt" for name in ("none", "empty", "latin"))
    assert refused(2, verb, rbe_file) == refused(2, verb, rbe_file, "x", "-f", none)
    assert refused(2, verb, rbe_file, "") == "the text is empty"
    assert refused(2, verb, rbe_file, "-") == "the text is empty"
    assert refused(2, verb, rbe_file, "-f", empty) == "the text is empty"
    assert refused(2, verb, rbe_file, "--tokens", empty) == f"{empty} is empty"
    assert f"{none} cannot be read" in refused(4, verb, rbe_file, "-f", none)
    assert f"{none} cannot be read" in refused(4, verb, rbe_file, "--tokens", none)
    assert f"{latin} is not UTF-8" in refused(3, verb, rbe_file, "-f", latin)
    assert f"{latin} is not UTF-8" in refused(3, verb, rbe_file, "--tokens", latin)


@pytest.mark.parametrize("verb", ["run", "generate"])
def test_stdin_that_cannot_be_read(
    refused: Refused,
    rbe_file: Path,
    type_in: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    type_in(b"caf\xe9")
    assert refused(3, verb, rbe_file, "-") == "stdin is not UTF-8 text: unexpected end of data"
    monkeypatch.setattr("sys.stdin", None)
    assert refused(2, verb, rbe_file, "-") == "stdin is closed"


@pytest.mark.parametrize("verb", ["run", "generate"])
@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        ("1 2 300", 2, "line 1: token id 300 is outside the vocabulary (0 to 299)"),
        ("1 2\n-1 2", 2, "line 2: token id -1 is outside the vocabulary"),
        ("1 2\n\n3", 2, "line 2 is empty"),
        ("1 two", 3, "line 1: 'two' is not a token id"),
        (" ".join(["5"] * 65), 2, "65 tokens"),
    ],
)
def test_tokens_that_the_model_cannot_take(
    refused: Refused,
    rbe_file: Path,
    tmp_path: Path,
    verb: str,
    content: str,
    code: int,
    sentence: str,
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text(content)
    assert sentence in refused(code, verb, rbe_file, "--tokens", ids)


@pytest.mark.parametrize(
    ("flag", "content", "code", "sentence"),
    [
        ("--calib", "", 2, "is too short: two windows are needed"),
        ("--calib", "A few words.", 2, "is too short: two windows are needed"),
        ("--calib", None, 4, "cannot be read"),
        ("--calib-tokens", "5 6 7", 2, "is too short: two windows are needed"),
        ("--calib-tokens", "5 6 7\n8 9 300", 2, "token id 300 is outside the vocabulary"),
        ("--calib-tokens", None, 4, "cannot be read"),
    ],
)
def test_a_calibration_that_cannot_be_used(
    refused: Refused,
    checkpoint: Path,
    tmp_path: Path,
    flag: str,
    content: str | None,
    code: int,
    sentence: str,
) -> None:
    path = tmp_path / "calib.txt"
    if content is not None:
        path.write_text(content)
    assert sentence in refused(code, "compress", checkpoint, tmp_path / "a.rbe", flag, path)
    assert not (tmp_path / "a.rbe").exists()


def test_calibration_on_text_needs_a_tokenizer(
    refused: Refused, bare_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("words " * 500)
    options = ["--calib", tmp_path / "text.txt"]
    sentence = refused(2, "compress", bare_checkpoint, tmp_path / "a.rbe", *options)
    assert "--calib needs a tokenizer" in sentence


# Outputs


@pytest.mark.parametrize("verb", ["compress", "logits", "hidden"])
def test_outputs_that_cannot_be_written(
    refused: Refused, checkpoint: Path, rbe_file: Path, tmp_path: Path, verb: str
) -> None:
    def write_to(path: Path) -> list[object]:
        if verb == "compress":
            return ["compress", checkpoint, path, "--force"]
        return ["run", rbe_file, "x", f"--{verb}", path, "--force"]

    missing = tmp_path / "no" / "folder"
    assert f"folder {missing} does not exist" in refused(4, *write_to(missing / "a"))
    assert "is not a regular file" in refused(1, *write_to(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert "is not a regular file" in refused(1, *write_to(tmp_path / "link"))
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rbe 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "{file}", "x", "--seed", "{long}"],
        ["compress", "demo", "{new}", "--preset", "{long}"],
        ["compress", "demo", "{new}", "--override", "{long}"],
        ["bench", "--shape", "{long}"],
        ["inspect", "{long}"],
        ["{long}"],
        ["generate", "{file}", "x", "--{long}"],
    ],
    ids=lambda arguments: arguments[-2] if len(arguments) > 1 else "verb",
)
def test_a_message_about_a_long_word_is_short(
    rbe: Rbe, rbe_file: Path, tmp_path: Path, arguments: list[str]
) -> None:
    names = {"file": rbe_file, "new": tmp_path / "x.rbe", "long": "\x1b" + 100_000 * "x"}
    done = rbe(*[own.format(**names) for own in arguments])
    assert done.code in (2, 3, 4)
    assert len(done.err) < 6000
    assert "\x1b" not in done.err
