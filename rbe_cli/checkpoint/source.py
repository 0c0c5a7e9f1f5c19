"""Opens the checkpoint that the user names."""

import os
from pathlib import Path

from rbe_cli.checkpoint.assemble import assemble
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.config import Gpt2Config
from rbe_cli.checkpoint.end_of_text import end_of_text_notes
from rbe_cli.checkpoint.files import read_json_object, xxh3_of_files
from rbe_cli.checkpoint.tokenizer_files import read_tokenizer
from rbe_cli.checkpoint.weight_files import list_tensors, weights_in_folder, weights_of_file
from rbe_cli.errors import NotFoundError
from rbe_cli.progress import Progress

_DEMO_FOLDER = Path(__file__).parent / "demo"
_FILE_SUFFIXES = (".safetensors", ".bin", ".json")


def open_checkpoint(
    source: str,
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> Checkpoint:
    """Open a GPT-2 checkpoint; its tensors are read only when asked for.

    Args:
        source: `demo` (ships with the package; a local folder of that name is `./demo`); a
            folder in Hugging Face layout; one `.safetensors` or `.bin` file or the
            `.index.json` of a sharded one, with its config and tokenizer beside it; or a hub
            id such as `gpt2` or `org/name@revision`. What exists, or is written like a path,
            is never looked for on the hub.
        offline: never use the network.
        progress: called with the model's name, bytes done and bytes in total during a download.

    Returns:
        The checkpoint. Its `source_hash` is XXH3-64 over the bytes of its weight files (an
        index not included), one after the other in order of their names.

    Raises:
        NotFoundError: the path, a file in it, the hub's repository or its revision is missing.
        OfflineError: it would have to be downloaded, and that is not possible.
        CheckpointError: a file is malformed, or its tensors are not those of the config.
    """
    path = _locate(source, offline=offline, progress=progress)
    weights = weights_in_folder(path) if path.is_dir() else weights_of_file(path)
    folder = path if path.is_dir() else path.parent
    config, notes = _read_config(folder)
    return Checkpoint(
        config=config,
        tensors=assemble(list_tensors(weights), config),
        tokenizer_json=read_tokenizer(folder),
        source=source,
        source_hash=xxh3_of_files(weights),
        weight_bytes=sum(file.stat().st_size for file in weights),
        notes=tuple(notes),
    )


def _read_config(folder: Path) -> tuple[Gpt2Config, list[str]]:
    """The folder's configuration, and notes on what of it is left out."""
    raw, generation = read_json_object(folder / "config.json"), None
    if (folder / "generation_config.json").is_file():
        generation = read_json_object(folder / "generation_config.json")
    config = Gpt2Config.from_hugging_face(raw, generation)
    return config, end_of_text_notes(raw, generation, config.vocab_size)


def _locate(source: str, *, offline: bool, progress: Progress | None) -> Path:
    """The folder or file on disk that holds the source, after a download if it must be."""
    if source == "demo":
        return _DEMO_FOLDER
    if os.path.exists(source):
        return Path(source)
    if source.startswith((".", "/", "~")) or source.endswith(_FILE_SUFFIXES):
        raise NotFoundError(f"{source} does not exist")
    from rbe_cli.checkpoint import hub

    repo, _, revision = source.partition("@")
    return hub.fetch(repo, revision or None, offline=offline, progress=progress)
