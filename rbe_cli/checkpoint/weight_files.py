"""Find the files that hold a checkpoint's weights, and list the tensors in them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rbe_cli.checkpoint.checked_files import read_json_object
from rbe_cli.checkpoint.file_kind import FileKind, file_kind, refuse_placeholder
from rbe_cli.checkpoint.safetensors_file import list_safetensors
from rbe_cli.checkpoint.stored_weights import StoredWeights
from rbe_cli.checkpoint.torch_files.torch_file import read_torch_file
from rbe_cli.checkpoint.unsupported_folders import refuse_folder
from rbe_cli.errors import CheckpointError, NotFoundError
from rbe_cli.quoting import quoted

INDEX_SUFFIX = ".index.json"
# In the order in which Hugging Face's loader prefers them.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors" + INDEX_SUFFIX,
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX_SUFFIX,
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
# What training leaves beside the weights.
_TRAINING_STATE = re.compile(
    r"training_args\.bin|(optimizer|scheduler|scaler|rng_state.*|random_states.*|.*optim_states)"
    r"\.(bin|pt|pth|pkl)"
)
_MAX_SHARDS = 1000
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


_REFUSALS = {
    FileKind.torch_tar: "is a tar archive, as PyTorch before 0.1.2 wrote: load it with torch.load "
    "and save it again",
    FileKind.pickle: "is a plain pickle: save the state dict with torch.save or safetensors",
    FileKind.gguf: "is a GGUF file with a name of another kind: give it by its own name, FILE.gguf",
    FileKind.rbe: "is an .rbe file, where a checkpoint is needed",
    FileKind.hdf5: "holds weights of TensorFlow (HDF5): save them as PyTorch weights first",
}


def weights_in_folder(folder: Path) -> list[Path]:
    """Return the weight files of a folder, shards in order of their names.

    Of Hugging Face's names, the first that is whole; else the only weight file there is.

    Raises:
        NotFoundError: the folder has none, or a shard is missing.
        CheckpointError: an index is malformed, there are several checkpoints, or the folder
            holds something that is no checkpoint.
    """
    sets = _usual_sets(folder)
    for files in sets:
        if all(file.is_file() for file in files):
            return files
    if sets:
        _check_all_there(sets[0])
    others = _weight_files(folder)
    if not others:
        refuse_folder(folder, WEIGHT_FILES)
    if len(others) > 1:
        names = ", ".join(path.name for path in others[:5]) + (" ..." if len(others) > 5 else "")
        raise CheckpointError(f"{folder} holds several checkpoints ({names}): name one of them")
    return others


def missing_weights(folder: Path) -> list[str]:
    """Return the names of the usual weight files that a folder lacks; empty if it lacks none.

    Raises:
        CheckpointError: an index is malformed.
    """
    sets = _usual_sets(folder) or [[folder / WEIGHT_FILES[0]]]
    return min(([file.name for file in files if not file.is_file()] for files in sets), key=len)


def weights_of_file(path: Path) -> list[Path]:
    """Return the weight file itself, or the shards of an index in order of their names.

    Raises:
        NotFoundError: the file or a shard that the index names is missing.
        CheckpointError: the index is malformed.
    """
    files = _files_of(path)
    _check_all_there(files)
    return files


def read_weights(paths: Iterable[Path]) -> StoredWeights:
    """List the tensors of weight files, without reading them.

    Raises:
        NotFoundError: a file cannot be opened.
        CheckpointError: a file is malformed, or is no weight file.
    """
    found = [_read_weight_file(path) for path in paths]
    return StoredWeights(
        tensors=[pair for weights in found for pair in weights.tensors],
        nbytes=sum(weights.nbytes for weights in found),
        own_config=next((weights.own_config for weights in found if weights.own_config), None),
        notes=tuple(note for weights in found for note in weights.notes),
    )


def _read_weight_file(path: Path) -> StoredWeights:
    """List one file's tensors; what it holds decides how, and only then its name."""
    refuse_placeholder(path)
    kind = file_kind(path)
    if refusal := _REFUSALS.get(kind):
        raise CheckpointError(f"{path} {refusal}")
    if kind is FileKind.safetensors or (kind is FileKind.unknown and path.suffix == ".safetensors"):
        return StoredWeights(list(list_safetensors(path).items()), path.stat().st_size)
    if kind is FileKind.unknown and path.suffix not in WEIGHT_SUFFIXES:
        step = ": give its folder" if path.suffix == ".json" else ""
        raise CheckpointError(
            f"{path} is no checkpoint: neither safetensors nor of torch.save{step}"
        )
    return read_torch_file(path)


def _usual_sets(folder: Path) -> list[list[Path]]:
    """Return the sets of files of which each would be a checkpoint's weights, the best first.

    They have Hugging Face's names; some of a set may be missing.

    Raises:
        CheckpointError: an index is malformed.
    """
    usual = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    sets = [_files_of(path) for path in usual] or [_shards_without_index(_weight_files(folder))]
    return [files for files in sets if files]


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that may be weights by their suffix, sorted."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in WEIGHT_SUFFIXES
        and path.is_file()
        and not path.name.startswith("adapter_")
        and not _TRAINING_STATE.fullmatch(path.name)
    )


def _files_of(path: Path) -> list[Path]:
    """Return the file itself, or the shards that it is an index of."""
    if path.name.endswith(INDEX_SUFFIX):
        return [path.parent / name for name in _shard_names(path)]
    return [path]


def _shard_names(index: Path) -> list[str]:
    """Return the file names in an index's `weight_map` (tensor -> file), each once, sorted."""
    refuse_placeholder(index)
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    texts = {name for name in weight_map.values() if isinstance(name, str)}
    if len(texts) > _MAX_SHARDS:
        raise CheckpointError(f"{index} names more than {_MAX_SHARDS} shards")
    others = (name for name in weight_map.values() if not isinstance(name, str))
    for name in (*others, *texts):
        # A shard lies beside its index, and is not an index itself.
        is_name = isinstance(name, str) and Path(name).name == name and name.isprintable()
        if not is_name or Path(name).suffix not in WEIGHT_SUFFIXES:
            raise CheckpointError(f"{index}: {quoted(name)} is not the name of a shard")
    return sorted(texts)


def _shards_without_index(paths: Sequence[Path]) -> list[Path]:
    """Return all shards of the model that files are shards of by their names; empty if of none."""
    found = [_SHARD.fullmatch(path.name) for path in paths]
    kinds = {(own["stem"], own["count"], own["suffix"]) if own else None for own in found}
    if len(kinds) != 1 or None in kinds:
        return []
    [(stem, count, suffix)] = (kind for kind in kinds if kind)
    numbers = range(1, min(int(count), _MAX_SHARDS) + 1)
    return [paths[0].parent / f"{stem}-{number:05}-of-{count}{suffix}" for number in numbers]


def _check_all_there(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        fault = "is no file" if missing[0].exists() else "is missing"
        raise NotFoundError(f"{missing[0]}{others} {fault}")
