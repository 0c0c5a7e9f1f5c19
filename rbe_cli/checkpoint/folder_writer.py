"""Write a checkpoint as a folder in Hugging Face layout."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rbe_cli.checkpoint.checkpoint import Checkpoint, Float32
from rbe_cli.checkpoint.safetensors_writer import tensor_bytes, write_safetensors
from rbe_cli.checkpoint.tokenizers_library import library_errors
from rbe_cli.errors import CheckpointError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import hugging_face_name, tensor_shapes
from rbe_cli.progress import Progress

SHARD_BYTES = 5_000_000_000  # at most in a weight file, as the reference library writes them
_WRITTEN = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json"
    r"|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
)


def is_written_here(file_name: str) -> bool:
    """Return whether `write_folder` writes files of this name."""
    return _WRITTEN.fullmatch(file_name) is not None


def write_folder(
    folder: Path,
    checkpoint: Checkpoint,
    dtype: str,
    progress: Progress,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write all files of a model that `AutoModelForCausalLM` and `AutoTokenizer` load.

    Args:
        folder: exists and is empty.
        checkpoint: the model; its tensors are read one at a time.
        dtype: of the weights: `float32`, `float16` or `bfloat16`.
        progress: is called after each tensor, with the number written and the total.
        shard_bytes: weights are spread over several files above this size.

    Raises:
        UsageError: a value is too large for the type; names the tensor.
        BadFileError: the checkpoint is damaged.
        OSError: a file cannot be written.
    """
    config = checkpoint.config
    _write_json(folder / "config.json", config.to_hugging_face(dtype))
    ends = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    _write_json(folder / "generation_config.json", ends)
    if checkpoint.tokenizer_json is not None:
        (folder / "tokenizer.json").write_bytes(checkpoint.tokenizer_json)
        settings = _tokenizer_config(config, checkpoint.tokenizer_json)
        _write_json(folder / "tokenizer_config.json", settings)
    _write_weights(folder, checkpoint, dtype, progress, shard_bytes)


def _write_weights(
    folder: Path, checkpoint: Checkpoint, dtype: str, progress: Progress, shard_bytes: int
) -> None:
    shapes = tensor_shapes(checkpoint.config)
    sizes = {name: tensor_bytes(shape, dtype) for name, shape in shapes.items()}
    shards = list(_shards(sizes, shard_bytes))
    weight_map: dict[str, str] = {}

    def read(names: list[str]) -> Iterator[Float32]:
        for name in names:
            progress("decoding", len(weight_map), len(shapes))
            yield checkpoint.tensors[name]
            weight_map[hugging_face_name(name)] = file_name

    for index, names in enumerate(shards, start=1):
        file_name = "model.safetensors"
        if len(shards) > 1:
            file_name = f"model-{index:05}-of-{len(shards):05}.safetensors"
        named = {hugging_face_name(name): shapes[name] for name in names}
        with open(folder / file_name, "xb") as file:
            write_safetensors(file, named, dtype, read(names))
    if len(shards) > 1:
        metadata = {"total_size": sum(sizes.values())}
        index_file = {"metadata": metadata, "weight_map": weight_map}
        _write_json(folder / "model.safetensors.index.json", index_file)
    progress("decoding", len(shapes), len(shapes))


def _shards(sizes: Mapping[str, int], limit: int) -> Iterator[list[str]]:
    """Group names in order: at most `limit` bytes a group, or one tensor that is larger."""
    names: list[str] = []
    total = 0
    for name, size in sizes.items():
        if names and total + size > limit:
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    yield names


def _tokenizer_config(config: Gpt2Config, tokenizer_json: bytes) -> dict[str, Any]:
    """Return settings with which the reference library uses `tokenizer.json` as it is.

    A special token is only named if `tokenizer.json` has it as one: the library would make one
    of any other, and texts that hold it would get other ids.
    """
    from tokenizers import Tokenizer

    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.n_positions,
        "clean_up_tokenization_spaces": False,
        # GPT-2 would add an embedding for the token types that version 4 gives otherwise.
        "model_input_names": ["input_ids", "attention_mask"],
    }
    with library_errors(CheckpointError, "the tokenizer cannot be read"):
        added = Tokenizer.from_buffer(tokenizer_json).get_added_tokens_decoder()
    first_end = next(iter(config.eos_token_ids), None)
    for key, token in (("bos_token", config.bos_token_id), ("eos_token", first_end)):
        if token is not None and token in added and added[token].special:
            settings[key] = added[token].content
    return settings


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
