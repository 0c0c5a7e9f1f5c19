"""Caches of the hub in all states, against a real server on 127.0.0.1."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from deadlines import run_python
from hub_server import Hub, commit_of, hub_environment
from safetensors.numpy import load_file, save_file

OpenAll = Callable[..., list[dict[str, Any]]]
Fill = Callable[..., Path]

NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
DOWNLOAD_FILES = """
import sys
from huggingface_hub import hf_hub_download

for name in sys.argv[1:]:
    hf_hub_download("org/model", name)
"""


@pytest.fixture
def fill(hub: Hub, tmp_path: Path, files: dict[str, bytes]) -> Fill:
    """Fills the cache as `hf download org/model FILE...` does; returns the snapshot."""

    def run(*names: str) -> Path:
        # The hub has more files of a tokenizer than are downloaded.
        hub.add("org/model", {"vocab.json": b"{}", "merges.txt": b"", **files})
        environment = hub_environment(hub, tmp_path / "cache")
        done = run_python(DOWNLOAD_FILES, *names, env={"PATH": os.environ["PATH"], **environment})
        assert done.returncode == 0, done.stderr
        hub.requests.clear()
        return model_folder(tmp_path) / "snapshots" / commit_of("main")

    return run


def model_folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "hub" / "models--org--model"


def write_snapshot(
    tmp_path: Path, commit: str, files: Mapping[str, bytes], branch: str | None = None
) -> Path:
    """Write a snapshot into the cache by hand, with a branch's reference to it."""
    folder = model_folder(tmp_path) / "snapshots" / commit
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if branch:
        (model_folder(tmp_path) / "refs").mkdir(exist_ok=True)
        (model_folder(tmp_path) / "refs" / branch).write_text(commit)
    return folder


def everything_in(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def test_a_cache_filled_file_by_file_is_used_as_it_is(
    hub: Hub, open_all: OpenAll, fill: Fill, tmp_path: Path
) -> None:
    fill(*NEEDED)
    before = everything_in(tmp_path / "cache")
    [local, online] = open_all("./local", "org/model")
    assert online["source_hash"] == local["source_hash"]
    assert online["tokenizer"]
    assert hub.requests == []
    hub.close()
    for options in ({"offline": True}, {"HF_HUB_OFFLINE": "1"}, {}):
        [cached] = open_all("org/model", **options)
        assert cached["source_hash"] == local["source_hash"]
        assert not any("commit" in note for note in cached["notes"])
    # Nothing was written, so a cache that is read-only will do.
    assert everything_in(tmp_path / "cache") == before


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_what_a_cache_lacks_is_named_or_fetched(
    hub: Hub, open_all: OpenAll, fill: Fill, tmp_path: Path, missing: str
) -> None:
    snapshot = fill(*(name for name in NEEDED if name != missing))
    [refused] = open_all("org/model", offline=True)
    assert refused["error"] == "OfflineError"
    assert f"org/model lacks {missing} in the cache, and offline" in refused["message"]
    assert refused["message"].endswith("hf download org/model")

    [local, completed] = open_all("./local", "org/model")
    assert completed["source_hash"] == local["source_hash"]
    fetched = {request.split()[1].rpartition("/")[2] for request in hub.requests}
    assert fetched & set(NEEDED) == {missing}

    (snapshot / missing).unlink()
    hub.close()
    [unreachable] = open_all("org/model")
    assert unreachable["error"] == "OfflineError"
    assert f"the cache lacks {missing}" in unreachable["message"]


def test_weights_in_the_cache_are_not_fetched_again_in_another_form(
    hub: Hub, open_all: OpenAll, fill: Fill, files: dict[str, bytes]
) -> None:
    golden = Path(__file__).parent / "fixtures" / "torch_state_dict.bin"
    files["pytorch_model.bin"] = golden.read_bytes()
    snapshot = fill("config.json", "pytorch_model.bin")
    [cached] = open_all("org/model", offline=True)
    (snapshot / "config.json").unlink()
    [completed] = open_all("org/model")
    assert completed["source_hash"] == cached["source_hash"]
    assert not any("/model.safetensors " in request for request in hub.requests)


def test_a_missing_shard_is_named_and_fetched(
    hub: Hub, open_all: OpenAll, fill: Fill, files: dict[str, bytes], tmp_path: Path
) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (tmp_path / "whole").write_bytes(files.pop("model.safetensors"))
    tensors = sorted(load_file(tmp_path / "whole").items())
    for name, part in zip(names, (tensors[::2], tensors[1::2]), strict=True):
        save_file(dict(part), tmp_path / name)
        files[name] = (tmp_path / name).read_bytes()
    weight_map = {name: names[number % 2] for number, (name, _) in enumerate(tensors)}
    index = "model.safetensors.index.json"
    files[index] = json.dumps({"weight_map": weight_map}).encode()

    snapshot = fill("config.json", "tokenizer.json", index, names[0])
    [refused] = open_all("org/model", offline=True)
    assert f"org/model lacks {names[1]} in the cache" in refused["message"]
    [completed] = open_all("org/model")
    (snapshot / index).unlink()
    [without_index] = open_all("org/model", offline=True)
    assert without_index["source_hash"] == completed["source_hash"]
    (snapshot / names[0]).unlink()
    [without_both] = open_all("org/model", offline=True)
    assert f"org/model lacks {names[0]} in the cache" in without_both["message"]


def test_broken_links_count_as_missing(open_all: OpenAll, fill: Fill) -> None:
    snapshot = fill(*NEEDED)
    (snapshot / "model.safetensors").resolve().unlink()
    [refused] = open_all("org/model", offline=True)
    assert "org/model lacks model.safetensors in the cache" in refused["message"]
    [local, completed] = open_all("./local", "org/model")
    assert completed["source_hash"] == local["source_hash"]


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
def test_the_cache_may_lie_elsewhere(
    open_all: OpenAll, fill: Fill, tmp_path: Path, variable: str
) -> None:
    fill(*NEEDED)
    (tmp_path / "cache" / "hub").rename(tmp_path / "elsewhere")
    [cached] = open_all("org/model", offline=True, **{variable: str(tmp_path / "elsewhere")})
    assert cached["tokenizer"]
    [elsewhere] = open_all("org/model", offline=True)
    assert elsewhere["error"] == "OfflineError"


def test_another_commit_is_used_only_where_it_must_be(
    hub: Hub, open_all: OpenAll, files: dict[str, bytes], tmp_path: Path
) -> None:
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(files["model.safetensors"])
    save_file({name: tensor + 1 for name, tensor in load_file(changed).items()}, changed)
    new = commit_of("new")
    write_snapshot(tmp_path, new, {**files, "model.safetensors": changed.read_bytes()})
    main = write_snapshot(tmp_path, commit_of("old"), files, "main")
    sources = ("./local", "org/model", f"org/model@{new}", "org/model@none")
    [local, cached, by_commit, by_revision] = open_all(*sources, offline=True)
    assert cached["source_hash"] == local["source_hash"]
    assert by_commit["ln_f.bias"] == [x + 1 for x in cached["ln_f.bias"]]
    assert by_revision["error"] == "OfflineError"

    (main / "model.safetensors").unlink()
    hub.close()
    for offline in (True, False):
        [other] = open_all("org/model", offline=offline)
        assert other["source_hash"] == by_commit["source_hash"]
        assert f"taken instead: commit {new}" in other["notes"][0]

    (model_folder(tmp_path) / "refs" / "main").unlink()
    [without_refs] = open_all("org/model", offline=True)
    assert without_refs["source_hash"] == by_commit["source_hash"]


@pytest.mark.parametrize("content", ["", "../../../../../local", "x" * 40, "\0"])
def test_a_damaged_reference_is_no_commit(
    open_all: OpenAll, files: dict[str, bytes], tmp_path: Path, content: str
) -> None:
    assert files
    write_snapshot(tmp_path, commit_of("main"), {}, "main")
    (model_folder(tmp_path) / "refs" / "main").write_text(content)
    sources = ("org/model", f"org/model@{tmp_path / 'local'}", "org/model@../../../../../local")
    for refused in open_all(*sources, offline=True):
        assert refused["error"] == "OfflineError"


def test_a_folder_of_the_cache_is_a_source(open_all: OpenAll, fill: Fill, tmp_path: Path) -> None:
    snapshot, folder = fill(*NEEDED), model_folder(tmp_path)
    for opened in open_all(*map(str, (folder, folder / "snapshots", snapshot)), offline=True):
        assert opened["tokenizer"]
    (snapshot / "model.safetensors").unlink()
    [refused, cache] = open_all(str(folder), str(folder.parent))
    assert refused["error"] == "NotFoundError"
    assert refused["message"].endswith(
        "lacks model.safetensors: give org/model instead, which completes it from the hub"
    )
    assert cache["message"].endswith(
        "is a cache of the Hugging Face hub: give a model's name, such as org/model"
    )


def test_an_address_of_the_hub(hub: Hub, open_all: OpenAll, files: dict[str, bytes]) -> None:
    hub.add("org/model", files)
    hub.add("org/model", files, "v2")
    addresses = [
        "https://huggingface.co/org/model",
        f"{hub.endpoint}/org/model/tree/v2",
        "https://huggingface.co/org/model/blob/main/model.safetensors",
    ]
    for opened in open_all(*addresses):
        assert opened["tokenizer"]
    [refused] = open_all("https://example.org/org/model")
    assert refused["message"].startswith("https://example.org/org/model is not an address of")


def test_a_cached_model_that_has_left_the_hub(hub: Hub, open_all: OpenAll, fill: Fill) -> None:
    fill("config.json", "model.safetensors")
    hub.models.clear()
    [opened] = open_all("org/model")
    assert not opened["tokenizer"]
