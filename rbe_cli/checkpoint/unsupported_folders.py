"""Explain what a folder without usable weights is, and what to do with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rbe_cli.checkpoint.checked_files import read_json_object
from rbe_cli.checkpoint.file_kind import refuse_placeholder
from rbe_cli.errors import CheckpointError, NotFoundError

ADAPTER_CONFIG = "adapter_config.json"
# File names of other frameworks, and how their weights become a checkpoint of this tool.
_OTHER_FRAMEWORKS = (
    (
        "tf_model*.h5",
        "TensorFlow",
        "from_pretrained(FOLDER, from_tf=True)",
    ),
    (
        "flax_model*.msgpack",
        "Flax",
        "from_pretrained(FOLDER, from_flax=True)",
    ),
    ("*.ckpt.index", "TensorFlow", "convert_gpt2_checkpoint_to_pytorch"),
    ("*.onnx", "ONNX", None),
    ("*.tflite", "TensorFlow Lite", None),
    ("*.mlmodel", "Core ML", None),
    ("rust_model.ot", "rust-bert", None),
)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "vocab.bpe",
    "spiece.model",
    "tokenizer.model",
)


def refuse_folder(folder: Path, wanted: Sequence[str]) -> NoReturn:
    """Say why a folder is no checkpoint.

    Args:
        folder: a folder without weights that this tool reads.
        wanted: file names that would be weights.

    Raises:
        CheckpointError: it holds something else.
        NotFoundError: it holds nothing that is known.
    """
    refuse_adapter(folder)
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        raise NotFoundError(f"{folder} is an empty folder")
    for name in wanted:
        if (folder / name).is_dir():
            raise CheckpointError(f"{folder / name} is a folder, not a file of weights")
    for pattern, framework, way in _OTHER_FRAMEWORKS:
        for path in sorted(folder.glob(pattern)):
            refuse_placeholder(path)
            step = f"convert them with {way} of transformers 4" if way else "get those of PyTorch"
            raise CheckpointError(
                f"{folder} holds {framework} weights only ({path.name}), which rbe does not "
                f"read: {step}"
            )
    for suffix in (".gguf", ".rbe"):
        if files := [name for name in names if name.endswith(suffix)]:
            raise CheckpointError(f"{folder} holds {suffix} files: name one, such as {files[0]}")
    _refuse_parent(folder, names)
    if found := [name for name in _TOKENIZER_FILES if name in names]:
        raise NotFoundError(
            f"{folder} holds a tokenizer ({found[0]}) but no weights: none of {', '.join(wanted)}"
        )
    raise NotFoundError(f"{folder} has none of {', '.join(wanted)}")


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder with a PEFT adapter, which is no model of its own.

    Raises:
        CheckpointError: the folder has an adapter.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return
    base = read_json_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    of = f" of {Path(base).name}" if isinstance(base, str) and base else ""
    raise CheckpointError(
        f"{folder} holds a PEFT adapter{of}, not a model: merge it first (merge_and_unload of "
        "peft, then save_pretrained)"
    )


def _refuse_parent(folder: Path, names: Sequence[str]) -> None:
    """Point to the checkpoints in the folder's own folders, if there are any."""
    inside = [path.name for path in folder.glob("hub/models--*")]
    if models := [name for name in (*names, *inside) if name.startswith("models--")]:
        example = models[0].removeprefix("models--").replace("--", "/")
        raise CheckpointError(
            f"{folder} is a cache of the Hugging Face hub: give a model's name, such as {example}"
        )
    inner = [name for name in names if (folder / name / "config.json").is_file()]
    inner += [name for name in names if any((folder / name).glob("*.safetensors"))]
    if inner:
        found = ", ".join(dict.fromkeys(inner))
        raise CheckpointError(f"{folder} holds weights in its own folders only: name one ({found})")
