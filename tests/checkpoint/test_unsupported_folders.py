import json
from pathlib import Path

import pytest

from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.errors import CheckpointError, NotFoundError, RbeError


def write(folder: Path, *names: str, content: str = "x") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("names", "message", "kind"),
    [
        (
            ["tf_model.h5", "config.json"],
            r"TensorFlow weights only \(tf_model\.h5\).*from_tf=True",
            3,
        ),
        (["flax_model.msgpack"], r"Flax weights only.*from_flax=True", 3),
        (["model.ckpt.index", "model.ckpt.meta"], "TensorFlow weights only", 3),
        (["model.onnx"], r"ONNX weights only.*get those of PyTorch", 3),
        (["a-Q4_K.gguf", "b.gguf"], r"holds \.gguf files: name one, such as a-Q4_K\.gguf", 3),
        (["a.rbe"], r"holds \.rbe files: name one, such as a\.rbe", 3),
        (["tokenizer.json", "config.json"], r"a tokenizer \(tokenizer\.json\) but no weights", 4),
        (["vocab.json", "merges.txt"], r"a tokenizer \(vocab\.json\) but no weights", 4),
        (["README.md"], r"has none of model\.safetensors", 4),
        (["model.safetensors/x"], r"model\.safetensors is a folder, not a file", 3),
        (
            ["checkpoint-10/config.json", "checkpoint-20/model.safetensors"],
            "checkpoint-10, check",
            3,
        ),
        (["models--gpt2/refs/main", "version.txt"], "cache of the Hugging Face hub.*as gpt2", 3),
        (["hub/models--a--b/refs/main", "token"], "cache of the Hugging Face hub.*as a/b", 3),
        (["a.pt", "b.pt"], r"holds several checkpoints \(a\.pt, b\.pt\): name one", 3),
        (
            ["optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state_0.pth"],
            "has none of",
            4,
        ),
    ],
)
def test_a_folder_without_weights_is_named(
    tmp_path: Path, names: list[str], message: str, kind: int
) -> None:
    write(tmp_path / "here", *names)
    with pytest.raises(RbeError, match=message) as caught:
        open_checkpoint(str(tmp_path / "here"))
    assert caught.value.exit_code == kind


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is an empty folder"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("base", "told"), [("/home/me/gpt2", "of gpt2"), ("org/gpt2", "of gpt2"), (None, "adapter")]
)
def test_an_adapter_is_named(tmp_path: Path, base: str | None, told: str) -> None:
    config = json.dumps({"peft_type": "LORA", "base_model_name_or_path": base})
    write(tmp_path, "adapter_config.json", content=config)
    write(tmp_path, "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds a PEFT adapter.*merge it first") as caught:
        open_checkpoint(str(tmp_path))
    assert told in str(caught.value)
    assert "/home/me" not in str(caught.value)


def test_a_tensorflow_file_that_is_a_git_lfs_pointer_is_no_tensorflow(tmp_path: Path) -> None:
    write(tmp_path, "tf_model.h5", content="version https://git-lfs.github.com/spec/v1\nsize 5\n")
    with pytest.raises(CheckpointError, match="Git LFS"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_pointer_in_place_of_a_json_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, content="version https://git-lfs.github.com/spec/v1\nsize 5\n")
    if name == "config.json":
        write(tmp_path, "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{name} is a Git LFS pointer"):
        open_checkpoint(str(tmp_path))
