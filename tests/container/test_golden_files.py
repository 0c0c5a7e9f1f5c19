"""Golden files decode to what they always did, and give the same text on every instruction set."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden.golden_cases import CASES
from golden.make_golden import NEW_TOKENS, first_logits, greedy_text, write

from rbe_cli.api.language_model import load
from rbe_cli.cli.app import run
from rbe_cli.codec.registry import CODECS
from rbe_cli.container.reader import Container
from rbe_cli.errors import OutputError
from rbe_cli.runtime.instruction_sets import VARIABLE, available
from rbe_cli.runtime.thread_team import get_team

FOLDER = Path(__file__).parents[1] / "golden"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expectations.json").read_text())
every_file = pytest.mark.parametrize("name", EXPECTED)


def test_every_file_has_its_expectations() -> None:
    files = {path.name for path in FOLDER.glob("*.rbe")}
    assert files == EXPECTED.keys()
    assert {f"{name}.rbe" for name in CASES} < files


def test_every_version_of_every_codec_has_a_file() -> None:
    found = {pair for own in EXPECTED.values() for pair in own["codec_versions"].items()}
    assert found == {
        (name, version)
        for name, codec in CODECS.items()
        for version in range(codec.oldest_version, codec.version + 1)
    }


@every_file
def test_the_file_is_the_one_that_was_written(name: str) -> None:
    content = (FOLDER / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == EXPECTED[name]["file"]


@every_file
def test_it_decodes_to_the_same_numbers(name: str) -> None:
    expected = EXPECTED[name]
    with Container.open(FOLDER / name) as container:
        container.verify()
        assert container.codec_versions == expected["codec_versions"]
        tensors = {own: stored.decode() for own, stored in container.tensors.items()}
        config = container.config
    hashes = {
        own: hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()
        for own, values in tensors.items()
    }
    assert hashes == expected["sha256"]
    logits = first_logits(expected["prompt"], tensors, config)
    np.testing.assert_allclose(logits, expected["logits"], rtol=1e-8, atol=1e-8)
    greedy, lead = greedy_text(expected["prompt"], tensors, config)
    assert greedy == expected["greedy"]
    if expected["lead"] is not None:
        assert lead == pytest.approx(expected["lead"], abs=1e-4)


@pytest.mark.parametrize("instructions", available(), ids=str)
def test_it_gives_the_same_text_on_every_instruction_set(
    instructions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, instructions.value)
    assert get_team(1).instructions is instructions
    for name, expected in EXPECTED.items():
        with load(FOLDER / name, threads=1) as model:
            found = model.generate(expected["prompt"], max_tokens=NEW_TOKENS, greedy=True)
        assert (name, found.tokens) == (name, expected["greedy"])
        assert (found.text or None) == expected["text"]


@pytest.mark.parametrize("instructions", available(), ids=str)
def test_it_decodes_to_the_same_numbers_on_every_instruction_set(
    instructions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, instructions.value)
    for name, expected in EXPECTED.items():
        with Container.open(FOLDER / name) as container:
            for own, stored in container.tensors.items():
                values = np.ascontiguousarray(stored.decode(), "<f4").tobytes()
                assert hashlib.sha256(values).hexdigest() == expected["sha256"][own], (name, own)


def test_the_command_line_gives_the_same_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = "model-with-tokenizer.rbe"
    expected = EXPECTED[name]
    ids = tmp_path / "ids.txt"
    ids.write_text(" ".join(map(str, expected["prompt"])))
    options = ["--max-tokens", str(NEW_TOKENS), "--greedy", "--format", "json", "-q"]
    assert run(["generate", str(FOLDER / name), "--tokens", str(ids), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["tokens"], result["text"]) == (expected["greedy"], expected["text"])


def test_a_golden_file_is_never_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.rbe"
    write(CASES["scalar-1"], path, 0)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        write(CASES["scalar-1"], path, 1)
    assert path.read_bytes() == before
