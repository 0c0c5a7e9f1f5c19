"""A tiny GPT-2, in memory, as a folder and on a hub of the tests' own."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deadlines import run_python
from hub_server import Hub, hub_environment, serve
from tokenizers import Tokenizer, models

WriteFolder = Callable[[str], Path]
OpenAll = Callable[..., list[dict[str, Any]]]


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
