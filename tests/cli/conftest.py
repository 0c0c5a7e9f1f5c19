"""A tiny checkpoint, what it compresses to, and `rbe` called here or in its own process."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from deadlines import started
from record_fields import RUN_FIELDS
from safetensors.numpy import save_file
from small_models import random_tensors, small_config
from small_tokenizer import train_tokenizer

from rbe_cli.cli.app import run
from rbe_cli.model.config import Gpt2Config

CONFIG = small_config(n_positions=64, n_embd=32, n_layer=2, n_head=2, n_inner=128, vocab_size=300)
RAW_CONFIG = {
    "model_type": "gpt2",
    "vocab_size": CONFIG.vocab_size,
    "n_positions": CONFIG.n_positions,
    "n_embd": CONFIG.n_embd,
    "n_layer": CONFIG.n_layer,
    "n_head": CONFIG.n_head,
}

RUN_TEXT = "The quick brown fox jumps over the lazy dog. It was the best of times"


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Of jsonl."""
        return [json.loads(line) for line in self.out.splitlines()]


Rbe = Callable[..., Finished]


@pytest.fixture
def rbe(capsys: pytest.CaptureFixture[str]) -> Rbe:
    """Runs a command line in this process."""

    def call(*arguments: object) -> Finished:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return call


@pytest.fixture
def refused(rbe: Rbe) -> Callable[..., str]:
    """Runs a command that has to fail with a code, and returns its one sentence."""

    def call(code: int, *arguments: object) -> str:
        done = rbe(*arguments)
        assert (done.code, done.out) == (code, "")
        *notes, sentence = done.err.splitlines()
        assert all(note.endswith(" ...") for note in notes)
        assert sentence.startswith("rbe: ")
        return sentence.removeprefix("rbe: ")

    return call


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Sets what stdin holds."""

    def set_stdin(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content)))

    return set_stdin


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `rbe` in a process of its own, with warnings as errors; what still runs is killed.

    `before` is a shell's command that prepares the process, such as `ulimit -f 1`.
    """
    with ExitStack() as stack:

        def popen(*arguments: object, before: str = ":", **options: Any) -> subprocess.Popen[str]:
            shell = ["sh", "-c", f'{before}; exec "$@"', "sh"]
            command = [sys.executable, "-W", "error", "-m", "rbe_cli", *arguments]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            return stack.enter_context(started(shell + command, **pipes | options))

        yield popen


@pytest.fixture(scope="session")
def config() -> Gpt2Config:
    return CONFIG


@pytest.fixture(scope="session")
def tokenizer_json() -> bytes:
    return train_tokenizer()


@pytest.fixture(scope="session")
def write_checkpoint(tokenizer_json: bytes) -> Callable[..., Path]:
    """Writes random weights into a new folder in Hugging Face layout, and returns it."""

    def write(folder: Path, seed: int = 0, tokenizer: bool = True, **tensors: Any) -> Path:
        folder.mkdir()
        save_file(random_tensors(CONFIG, seed) | tensors, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(RAW_CONFIG))
        if tokenizer:
            (folder / "tokenizer.json").write_bytes(tokenizer_json)
        return folder

    return write


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the whole session shares."""
    return tmp_path_factory.mktemp("workshop")


@pytest.fixture(scope="session")
def checkpoint(workshop: Path, write_checkpoint: Callable[..., Path]) -> Path:
    return write_checkpoint(workshop / "checkpoint")


@pytest.fixture(scope="session")
def bare_checkpoint(workshop: Path, write_checkpoint: Callable[..., Path]) -> Path:
    """One without a tokenizer."""
    return write_checkpoint(workshop / "bare", tokenizer=False)


@pytest.fixture(scope="session")
def compressed(workshop: Path, checkpoint: Path) -> dict[str, Any]:
    """What `rbe compress` says of the checkpoint, as JSON; not to be changed."""
    printed = StringIO()
    with redirect_stdout(printed):
        code = run(["compress", str(checkpoint), str(workshop / "tiny.rbe"), "--format", "json"])
    assert code == 0
    return json.loads(printed.getvalue())


@pytest.fixture(scope="session")
def rbe_file(compressed: dict[str, Any]) -> Path:
    """The compressed checkpoint; not to be changed in place."""
    return Path(compressed["output"])


@pytest.fixture(scope="session")
def bare_file(workshop: Path, bare_checkpoint: Path) -> Path:
    """A compressed model without a tokenizer."""
    path = workshop / "bare.rbe"
    with redirect_stdout(StringIO()):
        assert run(["compress", str(bare_checkpoint), str(path), "--calib-samples", "8"]) == 0
    return path


@pytest.fixture
def generate(rbe: Rbe, rbe_file: Path) -> Callable[..., Any]:
    """The JSON of `rbe generate` on the tiny model."""

    def call(*arguments: object) -> Any:
        done = rbe("generate", rbe_file, *arguments, "--format", "json", "-q")
        assert (done.code, done.err) == (0, "")
        return done.json

    return call


@pytest.fixture
def forward(rbe: Rbe, rbe_file: Path) -> Callable[..., dict[str, Any]]:
    """The record of `rbe run` on the tiny model."""

    def call(*arguments: object) -> dict[str, Any]:
        done = rbe("run", rbe_file, *arguments, "--format", "json", "-q")
        assert (done.code, done.err) == (0, "")
        assert list(done.json) == RUN_FIELDS
        return done.json

    return call


@pytest.fixture
def long_text(tmp_path: Path) -> Path:
    """More tokens than the model's context of 64."""
    path = tmp_path / "long.txt"
    path.write_text(f"{RUN_TEXT}\n" * 12)
    return path


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Two sequences of ids."""
    path = tmp_path / "ids.txt"
    path.write_text("5 6 7\n8 9\n")
    return path
