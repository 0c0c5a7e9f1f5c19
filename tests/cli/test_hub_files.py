"""A `.rbe` file on the hub is a model like one on disk, for every verb that takes one.

The hub is a real server on 127.0.0.1. `huggingface_hub` reads its environment when it is
imported, so each test's commands run in a process of its own.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deadlines import run_python
from hub_server import Hub, commit_of, hub_environment, serve
from small_files import write_dense
from small_models import small_config
from small_tokenizer import train_tokenizer

RUN_ALL = """
import contextlib, io, json, sys
from rbe_cli.cli.app import run

for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*line, "--format", "json"])
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue()}))
"""
RunAll = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as hub:
        yield hub


@pytest.fixture
def run_all(hub: Hub, tmp_path: Path) -> RunAll:
    """Runs command lines one after the other in a new process, all with the same cache."""

    def run(*lines: str, **environment: str) -> list[dict[str, Any]]:
        arguments = json.dumps([line.split() for line in lines])
        done = run_python(
            RUN_ALL,
            arguments,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(Path.home()),
                "PYTHONPATH": str(Path(__file__).parents[2]),
                **hub_environment(hub, tmp_path / "cache"),
                **environment,
            },
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def write_model(path: Path, n_layer: int = 1) -> bytes:
    config = small_config(vocab_size=300, n_layer=n_layer)
    write_dense(path, config, tokenizer_json=train_tokenizer())
    return path.read_bytes()


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    """The bytes of the file `local.rbe`."""
    return write_model(tmp_path / "local.rbe")


def layers(answer: dict[str, Any]) -> int:
    assert answer["code"] == 0, answer["err"]
    return json.loads(answer["out"])["config"]["n_layer"]


def message(answer: dict[str, Any], code: int = 4) -> str:
    assert answer["code"] == code
    error = json.loads(answer["err"].splitlines()[-1])["error"]
    assert error["code"] == code
    return error["message"]


def test_every_verb_takes_a_file_on_the_hub(hub: Hub, run_all: RunAll, model: bytes) -> None:
    hub.add("org/model", {"sub/tiny.rbe": model, "README.md": b"x", "model.safetensors": b"x"})
    answers = run_all(
        "inspect org/model",
        "run org/model/sub/tiny.rbe The --engine reference --offline",
        "run local.rbe The --engine reference --reference org/model/sub/tiny.rbe --offline",
        "compress org/model/sub/tiny.rbe out.rbe --dry-run --offline",
        "generate org/model The --max-tokens 1 --greedy --offline",
        "bench --model org/model --prompt-tokens 2 --max-tokens 1 --repeat 1 --offline",
    )
    assert [answer["code"] for answer in answers] == [0] * 6, answers
    found, run, compared, planned, generated, timed = (json.loads(a["out"]) for a in answers)
    assert found["file_bytes"] == len(model)
    assert len(run["top"]) == 10
    assert compared["kl_divergence"] < 1e-9
    assert planned["source"] == "org/model/sub/tiny.rbe"
    assert generated["tokens"] == [run["top"][0]["token"]]
    assert timed["bytes_per_token"] > 0
    downloads = [request for request in hub.requests if "GET /org/model/resolve" in request]
    assert len(downloads) == 1


def test_revisions(hub: Hub, run_all: RunAll, model: bytes, tmp_path: Path) -> None:
    hub.add("org/model", {"tiny.rbe": model})
    hub.add("org/model", {"tiny.rbe": write_model(tmp_path / "two.rbe", n_layer=2)}, "v2")
    names = ("org/model", "org/model@v2", f"org/model/tiny.rbe@{commit_of('v2')}")
    answers = run_all(*(f"inspect {name}" for name in names))
    assert [layers(answer) for answer in answers] == [1, 2, 2]


def test_what_is_on_disk_is_never_looked_for_on_the_hub(
    hub: Hub, run_all: RunAll, model: bytes, tmp_path: Path
) -> None:
    hub.add("org/model", {"tiny.rbe": b"x"})
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "model").write_bytes(model)
    found, *missing = run_all(
        "inspect org/model",
        "inspect ./org/other",
        "inspect models/other.rbe",
        "inspect ../a/b/other.rbe",
        "inspect other",
    )
    assert layers(found) == 1
    for answer in missing:
        assert "does not exist" in message(answer)
    assert hub.requests == []


def test_several_files_are_named(hub: Hub, run_all: RunAll, model: bytes) -> None:
    hub.add("org/model", {"a.rbe": model, "sub/b.rbe": model, "c.txt": b"x"})
    several, unknown, found, cached, other = run_all(
        "inspect org/model",
        "inspect org/model/c.rbe",
        "inspect org/model/sub/b.rbe",
        "inspect org/model",
        "inspect org/model/a.rbe",
    )
    assert "has a.rbe, sub/b.rbe: say which, as in org/model/a.rbe" in message(several)
    assert "has a.rbe, sub/b.rbe, but no c.rbe" in message(unknown)
    assert layers(found) == 1
    assert layers(cached) == 1  # the one that is there
    assert layers(other) == 1  # fetched beside it


def test_what_the_hub_does_not_have(hub: Hub, run_all: RunAll, model: bytes) -> None:
    hub.add("org/empty", {"model.safetensors": b"x"})
    hub.add("org/model", {"tiny.rbe": model})
    empty, none, revision = run_all(
        "inspect org/empty", "inspect org/none", "inspect org/model@none"
    )
    assert message(empty) == "org/empty is on the hub, but has no .rbe file"
    assert "org/none is no local path and not on the hub" in message(none)
    assert "not this revision" in message(revision)


def test_what_is_not_cached_is_missing_offline(hub: Hub, run_all: RunAll, model: bytes) -> None:
    hub.add("org/model", {"tiny.rbe": model})
    asked, file = run_all("inspect org/model --offline", "inspect org/model/tiny.rbe --offline")
    [told] = run_all("inspect org/model", HF_HUB_OFFLINE="1")
    assert message(asked) == "org/model is no local path, not in the cache, and offline"
    assert message(told) == message(asked)
    assert message(file).startswith("tiny.rbe of org/model is no local path, not in the cache")
    assert hub.requests == []
    hub.close()
    [unreachable] = run_all("inspect org/model")
    assert message(unreachable).startswith("org/model could not be downloaded")


@pytest.mark.parametrize("name", ["/etc/a.rbe", "../../a.rbe", "x/../../a.rbe", "c:\\a.rbe"])
def test_a_name_that_leaves_the_repository_does_not_count(
    run_all: RunAll, hub: Hub, model: bytes, name: str
) -> None:
    hub.add("some/model", {name: model})
    [done] = run_all("inspect some/model")
    assert done["code"] == 4
    assert "is on the hub, but has no .rbe file" in done["err"]
