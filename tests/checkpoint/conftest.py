"""A tiny GPT-2, in memory, as a folder and on a hub of the tests' own."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deadlines import run_python
from hub_server import Hub, hub_environment, serve
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from rbe_cli.checkpoint.config import Gpt2Config
from rbe_cli.checkpoint.names import tensor_shapes

WriteFolder = Callable[[str], Path]
OpenAll = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def raw_config() -> dict[str, object]:
    """A `config.json`, as Hugging Face writes it."""
    return {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": 6,
        "n_positions": 4,
        "n_embd": 4,
        "n_layer": 1,
        "n_head": 2,
        "n_inner": None,
        "tie_word_embeddings": True,
    }


@pytest.fixture
def tensors(raw_config: dict[str, object]) -> dict[str, NDArray[np.float32]]:
    """The tensors of `raw_config`, with values that all float types hold exactly."""
    rng = np.random.default_rng(0)
    shapes = tensor_shapes(Gpt2Config.from_hugging_face(raw_config))
    return {
        name: (rng.integers(-16, 16, shape) / 16).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture
def write_folder(
    tmp_path: Path,
    raw_config: dict[str, object],
    tensors: dict[str, NDArray[np.float32]],
) -> Callable[[str], Path]:
    """Writes `raw_config` and `tensors`, as a test has changed them, in Hugging Face layout."""

    def write(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(raw_config))
        save_file(tensors, folder / "model.safetensors")
        return folder

    return write


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


OPEN_ALL = """
import json, sys
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.errors import RbeError

for source in sys.argv[2:]:
    steps = []
    try:
        checkpoint = open_checkpoint(
            source, offline=sys.argv[1] == "offline", progress=lambda *step: steps.append(step)
        )
    except RbeError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    else:
        answer = {
            "ln_f.bias": checkpoint.tensors["ln_f.bias"].tolist(),
            "source_hash": checkpoint.source_hash,
            "tokenizer": checkpoint.tokenizer_json is not None,
            "notes": checkpoint.notes,
            "steps": steps,
        }
    print(json.dumps(answer))
"""


@pytest.fixture
def open_all(hub: Hub, tmp_path: Path) -> OpenAll:
    """Opens sources one after the other in a new process, all with the same cache.

    `huggingface_hub` reads its environment when it is imported, hence the process.
    """

    def run(*sources: str, offline: bool = False, **environment: str) -> list[dict[str, Any]]:
        done = run_python(
            OPEN_ALL,
            "offline" if offline else "online",
            *sources,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(Path(__file__).parents[2]),
                **hub_environment(hub, tmp_path / "cache"),
                **environment,
            },
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture
def files(write_folder: WriteFolder) -> dict[str, bytes]:
    """A model's files; its weights are its largest."""
    files = {path.name: path.read_bytes() for path in write_folder("local").iterdir()}
    vocabulary = {token: number for number, token in enumerate("abcdef")}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    return {**files, "tokenizer.json": tokenizer.to_str().encode()}
