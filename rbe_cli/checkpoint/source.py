"""Open the checkpoint that the user names."""

import os
from pathlib import Path
from typing import Any

from rbe_cli.checkpoint.assemble import assemble
from rbe_cli.checkpoint.checked_files import read_json_object, xxh3_of_files
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.file_kind import FileKind, file_kind, refuse_placeholder
from rbe_cli.checkpoint.gguf.gguf_checkpoint import open_gguf
from rbe_cli.checkpoint.hub.hub_cache import snapshot_in
from rbe_cli.checkpoint.source_name import hub_name, is_local
from rbe_cli.checkpoint.tokenizer.tokenizer_files import read_tokenizer
from rbe_cli.checkpoint.weight_files import read_weights, weights_in_folder, weights_of_file
from rbe_cli.errors import NotFoundError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.config_dialects import dialect_notes
from rbe_cli.model.end_of_text import end_of_text_notes
from rbe_cli.progress import Progress

_DEMO_FOLDER = Path(__file__).parent / "demo"


def open_checkpoint(
    source: str,
    *,
    offline: bool = False,
    progress: Progress | None = None,
) -> Checkpoint:
    """Open a GPT-2 checkpoint; its tensors are read only when asked for.

    Args:
        source: `demo` (ships with the package; a local folder of that name is `./demo`); a
            folder in Hugging Face layout, or with one checkpoint of a training script; one
            weight file (`.safetensors`, `.bin`, `.pt`, `.pth`, `.ckpt`) or the `.index.json` of
            a sharded one, with its config and tokenizer beside it; a `.gguf` file; a hub id
            such as `gpt2` or `org/name@revision`, or a model's address there. What exists, or
            is written like a path, is never looked for on the hub.
        offline: never use the network.
        progress: called with the model's name, bytes done and bytes in total during a download.

    Returns:
        The checkpoint. Its `source_hash` is XXH3-64 over the bytes of its weight files (an
        index not included), one after the other in order of their names.

    Raises:
        NotFoundError: the path, a file in it, the hub's repository or its revision is missing.
        OfflineError: it would have to be downloaded, and that is not possible.
        CheckpointError: a file is malformed or something else than a checkpoint, or its tensors
            are not those of the config.
    """
    path, hub_notes = _locate(source, offline=offline, progress=progress)
    if path.is_file() and file_kind(path) is FileKind.gguf:
        return open_gguf(path, source)
    files = weights_in_folder(path) if path.is_dir() else weights_of_file(path)
    folder = path if path.is_dir() else path.parent
    raw = _json_beside(folder / "config.json")
    if raw is not None:
        Gpt2Config.from_hugging_face(raw)  # another model is refused before its weights are read
    weights = read_weights(files)
    if raw is None:
        raw = weights.own_config
    if raw is None:
        raise NotFoundError(f"{folder} has no config.json, which says the model's sizes")
    generation = _json_beside(folder / "generation_config.json")
    config = Gpt2Config.from_hugging_face(raw, generation)
    tokenizer = read_tokenizer(folder, config.vocab_size)
    has_bias = raw.get("bias")
    assembled = assemble(
        weights.tensors, config, has_bias=has_bias if isinstance(has_bias, bool) else None
    )
    return Checkpoint(
        config=assembled.config,
        tensors=assembled.tensors,
        tokenizer_json=tokenizer.json,
        tokenizer_missing=tokenizer.missing,
        source=source,
        source_hash=xxh3_of_files(files),
        weight_bytes=weights.nbytes,
        notes=(
            *hub_notes,
            *weights.notes,
            *dialect_notes(raw),
            *assembled.notes,
            *end_of_text_notes(raw, generation, config.vocab_size),
            *tokenizer.notes,
        ),
    )


def _locate(
    source: str, *, offline: bool, progress: Progress | None
) -> tuple[Path, tuple[str, ...]]:
    """Return the folder or file on disk that holds the source, after a download if it must be.

    With it comes what the user should know about it, one sentence each.
    """
    if source == "demo":
        return _DEMO_FOLDER, ()
    if os.path.exists(source):
        path = Path(source)
        return snapshot_in(path) or path, ()
    if is_local(source):
        raise NotFoundError(f"{source} does not exist")
    from rbe_cli.checkpoint.hub import hub_download

    return hub_download.fetch(hub_name(source), offline=offline, progress=progress)


def _json_beside(path: Path) -> dict[str, Any] | None:
    """Return the JSON object of a file that need not exist; None if it does not."""
    if not path.is_file():
        return None
    refuse_placeholder(path)
    return read_json_object(path)
