import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from rbe_cli.checkpoint import source as source_module
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.errors import CheckpointError, NotFoundError
from rbe_cli.model.tensor_names import is_mask_buffer, parameter_count

FIXTURES = Path(__file__).parent / "fixtures"
SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"

Arrays = dict[str, NDArray[np.float32]]
WriteFolder = Callable[[str], Path]


def assert_holds(checkpoint: Checkpoint, expected: Arrays) -> None:
    assert set(checkpoint.tensors) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], array)


def test_a_folder(write_folder: WriteFolder, tensors: Arrays) -> None:
    folder = write_folder("model")
    weights = (folder / "model.safetensors").read_bytes()

    checkpoint = open_checkpoint(str(folder))

    assert_holds(checkpoint, tensors)
    assert checkpoint.config.n_embd == 4
    assert checkpoint.source == str(folder)
    assert checkpoint.source_hash == f"xxh3:{xxhash.xxh3_64_hexdigest(weights)}"
    assert checkpoint.weight_bytes == len(weights)
    assert checkpoint.tokenizer_json is None


def test_one_file_with_its_config_beside_it(write_folder: WriteFolder, tensors: Arrays) -> None:
    folder = write_folder("model")
    other = folder / "step-100.safetensors"
    (folder / "model.safetensors").rename(other)
    assert_holds(open_checkpoint(str(other)), tensors)


def test_shards(write_folder: WriteFolder, tensors: Arrays) -> None:
    folder = write_folder("model")
    (folder / "model.safetensors").unlink()
    shards = [folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, shards[0])
    save_file({name: tensors[name] for name in names[1::2]}, shards[1])
    weight_map = {name: shards[i % 2].name for i, name in enumerate(names)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))

    checkpoint = open_checkpoint(str(folder))

    assert_holds(checkpoint, tensors)
    assert_holds(open_checkpoint(str(index)), tensors)
    joined = shards[0].read_bytes() + shards[1].read_bytes()
    assert checkpoint.source_hash == f"xxh3:{xxhash.xxh3_64_hexdigest(joined)}"
    assert checkpoint.weight_bytes == len(joined)

    save_file(tensors, shards[1])
    with pytest.raises(CheckpointError, match="stored twice"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_pytorch_file(write_folder: WriteFolder, as_folder: bool) -> None:
    folder = write_folder("model")
    (folder / "model.safetensors").unlink()
    shutil.copy(FIXTURES / "torch_state_dict.bin", folder / "pytorch_model.bin")
    oracle = {
        name.removeprefix("transformer."): array
        for name, array in load_file(FIXTURES / "torch_state_dict.safetensors").items()
        if name != "lm_head.weight" and not is_mask_buffer(name.removeprefix("transformer."))
    }
    source = folder if as_folder else folder / "pytorch_model.bin"
    assert_holds(open_checkpoint(str(source)), oracle)


def test_the_demo_is_not_shadowed_by_a_folder(
    write_folder: WriteFolder, tensors: Arrays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped = write_folder("shipped")
    monkeypatch.setattr(source_module, "_DEMO_FOLDER", shipped)
    monkeypatch.chdir(tmp_path)
    tensors["ln_f.bias"] += 1
    write_folder("demo")

    demo, local = open_checkpoint("demo"), open_checkpoint("./demo")

    assert demo.source == "demo"
    np.testing.assert_array_equal(local.tensors["ln_f.bias"], demo.tensors["ln_f.bias"] + 1)


def test_a_folder_comes_before_the_hub(
    write_folder: WriteFolder, tensors: Arrays, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_folder("gpt2")
    monkeypatch.chdir(tmp_path)
    assert_holds(open_checkpoint("gpt2"), tensors)


@pytest.mark.parametrize(
    "source", ["./none", "/none/at/all", "../none", "~/none", "none.safetensors", "org/none.bin"]
)
def test_what_is_written_like_a_path_is_not_looked_for_on_the_hub(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="does not exist") as caught:
        open_checkpoint(source)
    assert source in str(caught.value)


@pytest.mark.parametrize("source", ["", "a/b/c", "no space", "x" * 5000, "nul\0byte", "@main"])
def test_neither_a_path_nor_a_hub_id(source: str) -> None:
    with pytest.raises(NotFoundError, match="neither an existing path nor a hub id"):
        open_checkpoint(source)


def test_a_folder_without_config_is_named(write_folder: WriteFolder) -> None:
    folder = write_folder("model")
    (folder / "config.json").unlink()
    with pytest.raises(NotFoundError, match=r"config\.json"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_malformed_config_is_named(write_folder: WriteFolder, content: str) -> None:
    folder = write_folder("model")
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(str(folder))


REAL_CHECKPOINTS = {
    "demo": True,
    str(SHARED_DATA / "english-6m"): True,
    str(SHARED_DATA / "mgm-9m"): False,
}


@pytest.mark.parametrize(
    ("source", "has_tokenizer"),
    [item for item in REAL_CHECKPOINTS.items() if item[0] == "demo" or Path(item[0]).is_dir()],
)
def test_real_checkpoints(source: str, has_tokenizer: bool) -> None:
    checkpoint = open_checkpoint(source)
    assert (checkpoint.tokenizer_json is not None) == has_tokenizer
    sizes = [tensor.size for tensor in checkpoint.tensors.values()]
    assert sum(sizes) == parameter_count(checkpoint.config)
