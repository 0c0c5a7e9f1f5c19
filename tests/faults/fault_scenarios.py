"""What is run with faults: every way to write an output, to go on with work, and to read a file."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import save_file
from small_models import random_tensors, small_config
from small_tokenizer import train_tokenizer

from rbe_cli.cli.app import run
from rbe_cli.runtime import object_files

OLD = "old"
_CONFIG = small_config(
    n_positions=32, n_embd=16, n_layer=1, n_head=2, n_inner=64, vocab_size=300, bos_token_id=0
)
_COMPRESS = [
    "--target-bpw",
    "6",
    "--calib-samples",
    "2",
    "--jobs",
    "1",
    "--quiet",
    "--format",
    "quiet",
]


@dataclass(frozen=True)
class Scenario:
    """A command, and what its folder holds before it.

    Attributes:
        name: says what is done.
        output: the file or folder that is written, in the folder; None if the command only reads.
        command: returns an exit code; is given the folder.
        old: whether an output is there before.
        again: the same after it has failed, with what is finished.
        unfinished: whether work of an interrupted run is there before.
        survives_power_cuts: whether the output must be whole then; an object file is checked by
            its hash before it is used.
    """

    name: str
    output: str | None
    command: Callable[[Path], int]
    old: bool = False
    again: Callable[[Path], int] | None = None
    unfinished: bool = False
    survives_power_cuts: bool = True


def make_sources(folder: Path) -> None:
    """Write the checkpoint and the compressed file that commands read; takes a second."""
    source = folder / "model"
    source.mkdir(parents=True)
    save_file(random_tensors(_CONFIG), source / "model.safetensors")
    raw = {
        "model_type": "gpt2", "vocab_size": 300, "n_positions": 32, "n_embd": 16, "n_layer": 1,
        "n_head": 2, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(raw))
    (source / "tokenizer.json").write_bytes(train_tokenizer())
    for name, more in (("model.rbe", []), ("other.rbe", ["--seed", "7"])):
        command = ["compress", str(source), str(folder / name), *_COMPRESS, *more]
        if run(command) != 0:
            raise RuntimeError("the model cannot be compressed")


def rbe(*arguments: str) -> Callable[[Path], int]:
    """Return a command line of `rbe`; words that begin with @ are names in the folder."""

    def call(folder: Path) -> int:
        return run([str(folder / own[1:]) if own.startswith("@") else own for own in arguments])

    return call


def _keep_object(folder: Path) -> int:
    """Write an object file to the cache, where that is possible."""
    try:
        object_files.write(folder / "kernels.o", b"machine code" * 1000)
    except OSError:
        return 1
    return 0


def _compress(*more: str) -> Callable[[Path], int]:
    return rbe("compress", "@model", "@out.rbe", *_COMPRESS, *more)


def _decompress(output: str, *more: str) -> Callable[[Path], int]:
    return rbe("compress", "--decompress", "@model.rbe", output, "--quiet", *more)


SCENARIOS: Sequence[Scenario] = (
    Scenario("compress", "out.rbe", _compress(), again=_compress("--resume")),
    Scenario(
        "compress --force", "out.rbe", _compress("--force"), old=True,
        again=_compress("--force", "--resume"),
    ),
    Scenario(
        "compress --resume", "out.rbe", _compress("--resume"), again=_compress("--resume"),
        unfinished=True,
    ),
    Scenario("decompress to a folder", "out", _decompress("@out")),
    Scenario("decompress to a folder --force", "out", _decompress("@out", "--force"), old=True),
    Scenario("decompress to GGUF", "out.gguf", _decompress("@out.gguf")),
    Scenario("decompress to GGUF --force", "out.gguf", _decompress("@out.gguf", "--force"), True),
    Scenario("kernel cache", "kernels.o", _keep_object, survives_power_cuts=False),
    Scenario("inspect --verify", None, rbe("inspect", "@model.rbe", "--verify", "--quiet")),
    Scenario(
        "generate", None,
        rbe("generate", "@model.rbe", "The", "--max-tokens", "2", "--quiet", "--threads", "1"),
    ),
)  # fmt: skip


def make_old(scenario: Scenario, folder: Path) -> None:
    """Put an older output in its place; it is one that `--force` may replace."""
    if scenario.output is None or not scenario.old:
        return
    path = folder / scenario.output
    if path.suffix == ".rbe":
        shutil.copy(folder / "other.rbe", path)
    elif path.suffix == ".gguf":
        path.write_bytes(b"GGUF of before")
    else:
        path.mkdir()
        (path / "config.json").write_text("of before")
        (path / "model.safetensors").write_bytes(b"of before")
