"""Open a GPT-2 that is stored as a GGUF file."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rbe_cli.checkpoint.assemble import assemble
from rbe_cli.checkpoint.checked_files import xxh3_of_files
from rbe_cli.checkpoint.checkpoint import Checkpoint, Float32
from rbe_cli.checkpoint.checkpoint_tensor import CheckpointTensor
from rbe_cli.checkpoint.gguf.gguf_file import GgufFile, read_gguf
from rbe_cli.checkpoint.gguf.gguf_names import from_gguf_name
from rbe_cli.checkpoint.gguf.gguf_tokenizer import END_KEYS, TOKENS, read_tokenizer
from rbe_cli.errors import CheckpointError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding, is_matrix
from rbe_cli.quoting import quoted

ARCHITECTURE = "gpt2"
_END_OF_TEXT = "<|endoftext|>"
_HEAD = "output.weight"


def open_gguf(path: Path, source: str) -> Checkpoint:
    """Open a GGUF file as a checkpoint; its tensors are read and decoded when asked for.

    Args:
        path: the file to read.
        source: what the user asked for.

    Raises:
        NotFoundError: the file cannot be opened.
        CheckpointError: it is damaged, or holds something else than a GPT-2.
        UsageError: it is quantised, and the `gguf` library is not installed.
    """
    file = read_gguf(path)
    try:
        config = _config(file)
        assembled = assemble(_tensors(file, config), config, has_bias=True)
        tokenizer = read_tokenizer(file.metadata, config.vocab_size)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    notes = list(tokenizer.notes)
    if file.quantised:
        notes.append(
            f"{path.name} is quantised already ({', '.join(file.quantised)}): its weights are "
            "taken as the original, and quality is relative to them"
        )
    return Checkpoint(
        config=assembled.config,
        tensors=assembled.tensors,
        tokenizer_json=tokenizer.json,
        source=source,
        source_hash=xxh3_of_files([path]),
        weight_bytes=path.stat().st_size,
        notes=(*assembled.notes, *notes),
    )


def _config(file: GgufFile) -> Gpt2Config:
    """Return the model's sizes and options; llama.cpp has one GELU and one scaling for GPT-2."""
    metadata = file.metadata
    architecture = metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise CheckpointError(
            f"it holds a model of {quoted(architecture)}: only GPT-2 is supported"
        )
    if metadata.get("split.count", 1) != 1:
        raise CheckpointError("it is one part of several: join them with llama-gguf-split --merge")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError("it has no tensor 'token_embd.weight'")
    vocab_size = embedding.shape[0]
    config = Gpt2Config(
        vocab_size=vocab_size,
        n_positions=_number(metadata, "context_length"),
        n_embd=_number(metadata, "embedding_length"),
        n_layer=_number(metadata, "block_count"),
        n_head=_number(metadata, "attention.head_count"),
        n_inner=_number(metadata, "feed_forward_length"),
        layer_norm_epsilon=_epsilon(metadata),
        tie_word_embeddings=_is_tied(embedding, file.tensors.get(_HEAD)),
        bos_token_id=next(iter(_tokens(metadata, ["bos"], vocab_size)), None),
        eos_token_id=_ends(metadata, vocab_size),
    )
    config.validate()
    return config


def _is_tied(embedding: CheckpointTensor, head: CheckpointTensor | None) -> bool:
    """Return whether the head is the embedding, which some programs store twice."""
    if head is None:
        return True
    return head.shape == embedding.shape and np.array_equal(head.read(), embedding.read())


def _number(metadata: Mapping[str, Any], key: str) -> int:
    value = metadata.get(f"{ARCHITECTURE}.{key}")
    if type(value) is not int:
        raise CheckpointError(f"its key {ARCHITECTURE}.{key} is missing or not a number")
    return value


def _epsilon(metadata: Mapping[str, Any]) -> float:
    key = f"{ARCHITECTURE}.attention.layer_norm_epsilon"
    value = metadata.get(key)
    if not isinstance(value, float):
        raise CheckpointError(f"its key {key} is missing or not a number")
    return float(str(np.float32(value)))  # 1e-05, where float32 has 9.999999747e-06


def _tokens(metadata: Mapping[str, Any], keys: Iterable[str], vocab_size: int) -> list[int]:
    """Return the special tokens that are named, those outside the vocabulary left out."""
    ids = [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in keys]
    return list(dict.fromkeys(id for id in ids if type(id) is int and 0 <= id < vocab_size))


def _ends(metadata: Mapping[str, Any], vocab_size: int) -> int | tuple[int, ...] | None:
    """Return the tokens that end a text; where none is named, GPT-2's if there is one."""
    ends = _tokens(metadata, END_KEYS, vocab_size)
    names = metadata.get(TOKENS)
    if not ends and isinstance(names, list) and _END_OF_TEXT in names[:vocab_size]:
        ends = [names.index(_END_OF_TEXT)]
    return tuple(ends) if len(ends) > 1 else next(iter(ends), None)


def _tensors(file: GgufFile, config: Gpt2Config) -> Iterator[tuple[str, CheckpointTensor]]:
    """Yield the tensors under canonical names, linear layers as `[in, out]`."""
    for stored_name, tensor in file.tensors.items():
        if stored_name == _HEAD and config.tie_word_embeddings:
            continue
        name = from_gguf_name(stored_name)
        if is_matrix(name) and not is_embedding(name):
            shape = tensor.shape[::-1]
            yield name, CheckpointTensor(shape, tensor.dtype, partial(_read_transposed, tensor))
        else:
            yield name, tensor


def _read_transposed(tensor: CheckpointTensor) -> Float32:
    return tensor.read().T
