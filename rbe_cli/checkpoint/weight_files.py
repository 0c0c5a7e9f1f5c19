"""Finds the files that hold a checkpoint's weights, and lists the tensors in them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rbe_cli.checkpoint.files import read_json_object
from rbe_cli.checkpoint.safetensors_file import list_safetensors
from rbe_cli.checkpoint.stored_tensor import StoredTensor
from rbe_cli.checkpoint.torch_pickle import list_torch_pickle
from rbe_cli.errors import CheckpointError, NotFoundError

INDEX_SUFFIX = ".index.json"
# In the order in which Hugging Face's loader prefers them.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors" + INDEX_SUFFIX,
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX_SUFFIX,
)


def weights_in_folder(folder: Path) -> list[Path]:
    """The weight files of a folder in Hugging Face layout, shards in order of their names.

    Raises:
        NotFoundError: the folder has none, or a shard that its index names is missing.
        CheckpointError: the index is malformed.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return weights_of_file(folder / name)
    raise NotFoundError(f"{folder} has none of {', '.join(WEIGHT_FILES)}")


def weights_of_file(path: Path) -> list[Path]:
    """The weight file itself, or, of an index, its shards in order of their names.

    Raises:
        NotFoundError: a shard that the index names is missing.
        CheckpointError: it is neither `.safetensors` nor `.bin`, or the index is malformed.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return [
            shard for name in _shard_names(path) for shard in weights_of_file(path.parent / name)
        ]
    if not _holds_weights(path):
        raise CheckpointError(f"{path} is no checkpoint: neither .safetensors nor .bin")
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist")
    return [path]


def list_tensors(paths: Iterable[Path]) -> Iterator[tuple[str, StoredTensor]]:
    """Name and tensor of everything in the weight files, under the names stored there.

    Raises:
        NotFoundError: a file cannot be opened.
        CheckpointError: a file is malformed.
    """
    for path in paths:
        list_file = list_safetensors if path.suffix == ".safetensors" else list_torch_pickle
        yield from list_file(path).items()


def _holds_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin")


def _shard_names(index: Path) -> list[str]:
    """The file names in an index's `weight_map` (tensor name -> file name), each once, sorted."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    for name in weight_map.values():
        # A shard lies beside its index, and is not an index itself.
        if not isinstance(name, str) or Path(name).name != name or not _holds_weights(Path(name)):
            raise CheckpointError(f"{index}: {str(name)[:80]!r} is not the name of a shard")
    return sorted(set(weight_map.values()))
