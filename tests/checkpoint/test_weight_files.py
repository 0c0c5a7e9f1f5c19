import json
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.checkpoint.weight_files import (
    WEIGHT_FILES,
    missing_weights,
    read_weights,
    weights_in_folder,
    weights_of_file,
)
from rbe_cli.errors import CheckpointError, NotFoundError


def write_index(path: Path, weight_map: Any) -> Path:
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def test_weights_are_preferred_as_the_usual_loader_does(tmp_path: Path) -> None:
    (tmp_path / "shard.bin").touch()
    for name in reversed(WEIGHT_FILES):
        (tmp_path / name).touch()
        if name.endswith(".index.json"):
            write_index(tmp_path / name, {"w": "shard.bin"})
        expected = "shard.bin" if name.endswith(".index.json") else name
        assert weights_in_folder(tmp_path) == [tmp_path / expected]


def test_shards_come_once_and_sorted(tmp_path: Path) -> None:
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for name in names:
        (tmp_path / name).touch()
    index = write_index(
        tmp_path / "model.safetensors.index.json",
        {"b": names[2], "a": names[0], "c": names[1], "d": names[0]},
    )
    assert weights_of_file(index) == [tmp_path / name for name in names]
    assert weights_in_folder(tmp_path) == [tmp_path / name for name in names]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = write_index(tmp_path / "x.index.json", {"w": "model-2.safetensors"})
    with pytest.raises(NotFoundError, match=r"model-2\.safetensors"):
        weights_of_file(index)


@pytest.mark.parametrize(
    "name",
    ["../secret.bin", "/etc/secret.bin", "sub/x.bin", "", 7, None, ["x.bin"], "x.index.json"],
)
def test_shards_lie_beside_their_index(tmp_path: Path, name: Any) -> None:
    index = write_index(tmp_path / "x.index.json", {"w": name})
    with pytest.raises(CheckpointError, match="not the name of a shard"):
        weights_of_file(index)


@pytest.mark.parametrize("content", ["[", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_a_malformed_index_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"x\.index\.json"):
        weights_of_file(tmp_path / "x.index.json")


def test_an_index_of_very_many_shards_is_refused(tmp_path: Path) -> None:
    shards = {f"w{number}": f"x-{number}.bin" for number in range(1001)}
    index = write_index(tmp_path / "x.index.json", shards)
    with pytest.raises(CheckpointError, match="names more than 1000 shards"):
        weights_of_file(index)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"weight_map": ' + b"[" * 100_000, "not valid JSON"),
        (b'{"weight_map": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"weight_map": {"w": "' + b"x" * (1 << 24) + b'.bin"}}', "more than 16777216 bytes"),
        (b'{"weight_map": {"w": "../' + b"x" * 9999 + b'"}}', "is not the name of a shard"),
        (b'{"weight_map": {"w": "a\\u001b[31m.bin"}}', r"'a\\x1b\[31m.bin' is not the name"),
    ],
    ids=["nesting", "digits", "size", "name", "control"],
)
def test_a_malicious_index_is_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / "x.index.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=fault) as caught:
        weights_of_file(tmp_path / "x.index.json")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_folder_without_weights_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NotFoundError, match=r"model\.safetensors"):
        weights_in_folder(tmp_path)


def test_other_files_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(CheckpointError, match=r"notes\.txt is no checkpoint"):
        read_weights([tmp_path / "notes.txt"])


def test_the_first_set_that_is_whole_is_taken(tmp_path: Path) -> None:
    write_index(tmp_path / "model.safetensors.index.json", {"w": "model-2.safetensors"})
    with pytest.raises(NotFoundError, match=r"model-2\.safetensors is missing$"):
        weights_in_folder(tmp_path)
    assert missing_weights(tmp_path) == ["model-2.safetensors"]
    (tmp_path / "pytorch_model.bin").touch()
    assert weights_in_folder(tmp_path) == [tmp_path / "pytorch_model.bin"]
    assert missing_weights(tmp_path) == []


def test_shards_without_an_index_are_known_by_their_names(tmp_path: Path) -> None:
    names = [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    (tmp_path / names[1]).touch()
    assert missing_weights(tmp_path) == [names[0], names[2]]
    with pytest.raises(NotFoundError, match=rf"{names[0]} \(and 1 more\) is missing"):
        weights_in_folder(tmp_path)
    for name in names:
        (tmp_path / name).touch()
    assert weights_in_folder(tmp_path) == [tmp_path / name for name in names]
    assert missing_weights(tmp_path) == []
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(CheckpointError, match="holds several checkpoints"):
        weights_in_folder(tmp_path)


def test_an_empty_folder_lacks_the_usual_file(tmp_path: Path) -> None:
    assert missing_weights(tmp_path) == ["model.safetensors"]


def test_a_folder_in_place_of_a_shard_is_no_file(tmp_path: Path) -> None:
    index = write_index(tmp_path / "x.index.json", {"w": "model-2.safetensors"})
    (tmp_path / "model-2.safetensors").mkdir()
    with pytest.raises(NotFoundError, match=r"model-2\.safetensors is no file$"):
        weights_of_file(index)


def test_the_set_that_lacks_the_fewest_files_is_the_one_to_complete(tmp_path: Path) -> None:
    write_index(
        tmp_path / "model.safetensors.index.json", {"a": "a.safetensors", "b": "b.safetensors"}
    )
    write_index(tmp_path / "pytorch_model.bin.index.json", {"a": "z.bin"})
    assert missing_weights(tmp_path) == ["z.bin"]
