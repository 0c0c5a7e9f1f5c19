"""Finds a checkpoint's tokenizer, and turns GPT-2's two files into one `tokenizer.json`."""

from pathlib import Path

from rbe_cli.errors import CheckpointError

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
_END_OF_TEXT = "<|endoftext|>"


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder has `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`."""
    whole, vocabulary, merges = (folder / name for name in TOKENIZER_FILES)
    return whole.is_file() or (vocabulary.is_file() and merges.is_file())


def read_tokenizer(folder: Path) -> bytes | None:
    """The folder's tokenizer in the form of a `tokenizer.json`; None if it has none.

    Raises:
        CheckpointError: the `tokenizers` library cannot load what is there.
    """
    if not has_tokenizer(folder):
        return None
    whole, vocabulary, merges = (folder / name for name in TOKENIZER_FILES)
    try:
        return _checked(whole) if whole.is_file() else _byte_level_bpe(vocabulary, merges)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"the tokenizer in {folder} cannot be loaded: {error}") from error


def _checked(path: Path) -> bytes:
    """The bytes of a `tokenizer.json` that the library accepts."""
    from tokenizers import Tokenizer

    content = path.read_bytes()
    Tokenizer.from_buffer(content)
    return content


def _byte_level_bpe(vocabulary: Path, merges: Path) -> bytes:
    """GPT-2's tokenizer (Radford et al., 2019, section 2.2): BPE over bytes, no normalisation."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(_END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([_END_OF_TEXT])
    return tokenizer.to_str().encode()
