"""The hub path, against a real server on 127.0.0.1."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hub_server import Hub, commit_of
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

WriteFolder = Callable[[str], Path]
OpenAll = Callable[..., list[dict[str, Any]]]


def test_a_model_is_downloaded_once(
    hub: Hub, open_all: OpenAll, files: dict[str, bytes], tmp_path: Path
) -> None:
    unneeded = {"pytorch_model.bin": b"x", "onnx/model.safetensors": b"x", "README.md": b"x"}
    hub.add("gpt2", {**files, **unneeded})

    [local, downloaded, cached] = open_all("./local", "gpt2", "gpt2")

    assert downloaded["source_hash"] == cached["source_hash"] == local["source_hash"]
    assert downloaded["tokenizer"]
    assert cached["tokenizer"]
    done = [step[1] for step in downloaded["steps"]]
    size = sum(map(len, files.values()))
    assert done == sorted(done)
    assert downloaded["steps"][-1] == ["gpt2", size, size]
    assert cached["steps"] == []
    assert sum("GET /gpt2/" in request for request in hub.requests) == len(files)


def test_the_cache_needs_no_network(hub: Hub, open_all: OpenAll, files: dict[str, bytes]) -> None:
    hub.add("org/model", files)
    [first] = open_all("org/model")
    hub.requests.clear()

    [again] = open_all("org/model")
    assert again["source_hash"] == first["source_hash"]
    assert hub.requests == []

    hub.close()
    for options in ({}, {"offline": True}, {"HF_HUB_OFFLINE": "1"}):
        [again] = open_all("org/model", **options)
        assert again["source_hash"] == first["source_hash"]


def test_a_model_without_tokenizer_is_still_cached(
    hub: Hub, open_all: OpenAll, files: dict[str, bytes]
) -> None:
    del files["tokenizer.json"]
    hub.add("org/model", files)
    open_all("org/model")
    hub.close()
    for options in ({}, {"offline": True}, {"HF_HUB_OFFLINE": "1"}):
        [cached] = open_all("org/model", **options)
        assert not cached["tokenizer"]


def test_a_cache_that_lacks_the_tokenizer_is_completed(
    hub: Hub, open_all: OpenAll, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add("org/model", files)
    open_all("org/model")
    [tokenizer] = tmp_path.glob("cache/hub/models--org--model/snapshots/*/tokenizer.json")
    tokenizer.unlink()
    [completed] = open_all("org/model")
    assert completed["tokenizer"]


def test_revisions(hub: Hub, open_all: OpenAll, files: dict[str, bytes], tmp_path: Path) -> None:
    hub.add("org/model", files)
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(files["model.safetensors"])
    save_file({name: tensor + 1 for name, tensor in load_file(changed).items()}, changed)
    hub.add("org/model", {**files, "model.safetensors": changed.read_bytes()}, "v2")

    [main, new, by_commit] = open_all("org/model", "org/model@v2", f"org/model@{commit_of('v2')}")

    assert new["ln_f.bias"] == by_commit["ln_f.bias"] == [x + 1 for x in main["ln_f.bias"]]


def test_a_sharded_pytorch_model(hub: Hub, open_all: OpenAll, files: dict[str, bytes]) -> None:
    del files["model.safetensors"]
    shard = "pytorch_model-00001-of-00001.bin"
    files[shard] = (Path(__file__).parent / "fixtures" / "torch_state_dict.bin").read_bytes()
    files["pytorch_model.bin.index.json"] = json.dumps({"weight_map": {"any": shard}}).encode()
    hub.add("org/model", files)
    [opened] = open_all("org/model")
    assert len(opened["ln_f.bias"]) == 4


def test_a_broken_download_is_resumed(
    hub: Hub,
    open_all: OpenAll,
    write_folder: WriteFolder,
    raw_config: dict[str, object],
    tensors: dict[str, NDArray[np.float32]],
) -> None:
    # The library writes to disk in pieces of 10 MiB, so the file must be larger than one.
    raw_config["vocab_size"] = 700_000
    tensors["wte.weight"] = np.ones((700_000, 4), dtype=np.float32)
    files = {path.name: path.read_bytes() for path in write_folder("local").iterdir()}
    hub.add("org/model", files)
    hub.breaks["model.safetensors"] = [11_000_000]

    [local, resumed] = open_all("./local", "org/model")

    assert resumed["source_hash"] == local["source_hash"]
    [resumed_at] = hub.ranges
    assert 0 < int(resumed_at.removeprefix("bytes=").removesuffix("-")) <= 11_000_000
    size = sum(map(len, files.values()))
    assert resumed["steps"][-1] == ["org/model", size, size]


def test_complete_files_survive_a_download_that_failed(
    hub: Hub, open_all: OpenAll, files: dict[str, bytes]
) -> None:
    hub.add("org/model", files)
    hub.breaks["model.safetensors"] = [0] * 100
    [failed] = open_all("org/model")
    assert failed["error"] == "OfflineError"
    assert failed["message"].startswith("org/model could not be downloaded")

    hub.breaks.clear()
    hub.requests.clear()
    [completed] = open_all("org/model")
    assert completed["tokenizer"]
    downloads = [request for request in hub.requests if "GET /org/model/" in request]
    assert len(downloads) == 1
    assert "/model.safetensors " in downloads[0]


def test_what_the_hub_does_not_have(hub: Hub, open_all: OpenAll, files: dict[str, bytes]) -> None:
    hub.add("org/model", files)
    hub.add("org/empty", {"README.md": b"x", "config.json": files["config.json"]})
    sources = ("org/none", "org/model@none", "org/empty")
    for source, answer in zip(sources, open_all(*sources), strict=True):
        assert answer["error"] == "NotFoundError"
        assert answer["message"].startswith(source)


def test_what_is_not_cached_cannot_be_opened_offline(
    hub: Hub, open_all: OpenAll, files: dict[str, bytes]
) -> None:
    hub.add("gpt2", files)
    [asked] = open_all("gpt2", offline=True)
    [told] = open_all("gpt2", HF_HUB_OFFLINE="1")
    assert hub.requests == []
    hub.close()
    [unreachable, revision] = open_all("gpt2", "org/model@v2")
    for answer in (asked, told, unreachable):
        assert answer["error"] == "OfflineError"
        assert answer["message"].startswith("gpt2 is no local path, not in the cache, and")
    assert revision["message"].startswith("org/model@v2 is no local path")


def test_what_is_no_gpt2_is_refused_before_its_weights_are_downloaded(
    hub: Hub, open_all: OpenAll, files: dict[str, bytes]
) -> None:
    weights = {"model.safetensors": files["model.safetensors"]}
    hub.add("org/other", {**weights, "config.json": b'{"model_type": "llama"}'})
    adapter = {"adapter_config.json": b'{"base_model_name_or_path": "gpt2"}'}
    hub.add("org/adapter", {**adapter, "adapter_model.safetensors": b"x"})
    hub.add("org/gguf", {"config.json": files["config.json"], "gpt2.Q4_K_M.gguf": b"GGUF"})
    [other, adapter_only, gguf] = open_all("org/other", "org/adapter", "org/gguf")
    assert "only GPT-2 is supported" in other["message"]
    assert "holds a PEFT adapter of gpt2, not a model" in adapter_only["message"]
    assert gguf["message"].endswith("nor pytorch_model.bin, but gpt2.Q4_K_M.gguf")
    assert not any("/resolve/" in own and "safetensors" in own for own in hub.requests)


def test_a_gated_model_is_named(hub: Hub, open_all: OpenAll, files: dict[str, bytes]) -> None:
    hub.add("org/gated", files)
    hub.gated.add("org/gated")
    [gated] = open_all("org/gated")
    assert gated["message"] == (
        "org/gated is gated: accept its conditions on the hub, and set HF_TOKEN"
    )
