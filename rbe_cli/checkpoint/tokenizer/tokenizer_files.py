"""Find a checkpoint's tokenizer, and turn it into one `tokenizer.json`."""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbe_cli.checkpoint.checked_files import errors_name, read_bounded, read_json_object
from rbe_cli.checkpoint.file_kind import refuse_placeholder
from rbe_cli.checkpoint.tokenizer.sentence_piece import SENTENCE_PIECE_CLASSES, sentence_piece
from rbe_cli.checkpoint.tokenizer.sentence_piece_model import (
    MAX_SENTENCE_PIECE_BYTES,
    parse_sentence_piece,
)
from rbe_cli.checkpoint.tokenizer.tokenizer_parts import (
    GPT2_TOKENS,
    add_ends,
    add_tokens,
    byte_level,
    word_piece,
)
from rbe_cli.checkpoint.tokenizer.tokenizer_settings import (
    SETTINGS_FILES,
    TokenizerSettings,
    UnsupportedTokenizerError,
    read_settings,
)
from rbe_cli.checkpoint.tokenizer.tokenizer_vocabulary import (
    read_merges,
    read_vocabulary,
    read_vocabulary_lines,
)
from rbe_cli.checkpoint.tokenizer_limits import (
    MAX_TOKENIZER_BYTES,
    check_added_tokens,
    check_counts,
    check_ids,
    check_tokenizer_json,
    max_tokens,
)
from rbe_cli.checkpoint.tokenizers_library import encode, library_errors
from rbe_cli.errors import CheckpointError
from rbe_cli.quoting import QUOTED_CHARACTERS, clipped

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SENTENCE_PIECE_FILES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
# Each entry is one tokenizer; the first whose files are all there is taken.
_VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    *((name,) for name in _SENTENCE_PIECE_FILES),
    ("vocab.txt",),
)
TOKENIZER_FILES = (*(name for files in _VOCABULARIES for name in files), *SETTINGS_FILES)
# What other tokenizers keep their vocabulary in.
_OTHER_VOCABULARIES = ("vocab.*", "*.model", "*.tiktoken", "*.spm", "tekken.json", "bpe.codes")
_NONE = "the checkpoint has none"
_GPT2, _BERT = "GPT2Tokenizer", "BertTokenizer"
# Classes that add no rules to a vocabulary.
_GENERAL_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/=]+ [0-9]+\r?\n")
# Classes that first split a text by a dictionary of Japanese or Chinese words.
_SPLIT_BY_DICTIONARY = ("BertJapaneseTokenizer", "CpmTokenizer")


@dataclass(frozen=True)
class FoundTokenizer:
    """Hold a folder's tokenizer.

    Attributes:
        json: in the form of a `tokenizer.json`; None if there is none that can be read.
        notes: what of it differs from the files, one sentence each.
        missing: why there is none, in words; None if there is one.
    """

    json: bytes | None
    notes: tuple[str, ...] = ()
    missing: str | None = None


def has_tokenizer(folder: Path) -> bool:
    """Return whether the folder has all files of a tokenizer."""
    return _vocabulary(folder) is not None


def read_tokenizer(folder: Path, vocab_size: int) -> FoundTokenizer:
    """Read the folder's tokenizer, which gives the ids that transformers 5 gives.

    Args:
        folder: in Hugging Face layout.
        vocab_size: ids that the language model knows.

    Raises:
        CheckpointError: a file is damaged; the message names it.
    """
    files = _vocabulary(folder)
    if files is None:
        return _without(_leftovers(folder))
    if files == ("tokenizer.json",):
        return _from_tokenizer_json(folder / "tokenizer.json", vocab_size)
    for name in (*files, *SETTINGS_FILES):
        if (folder / name).is_file():
            refuse_placeholder(folder / name)
    settings = read_settings(folder)
    try:
        names = " and ".join(str(folder / name) for name in files)
        with library_errors(CheckpointError, f"{names} cannot be read as a tokenizer"):
            tokenizer = _build(folder, files, settings, vocab_size)
    except UnsupportedTokenizerError as error:
        return _without(f"{files[0]} {error}")
    notes = (*_class_notes(files, settings.class_name), *_notes(tokenizer, settings, vocab_size))
    return FoundTokenizer(tokenizer.to_str().encode(), notes)


def _vocabulary(folder: Path) -> tuple[str, ...] | None:
    """Return the files of the vocabulary to use; None if no tokenizer has all of its files."""
    whole = (own for own in _VOCABULARIES if all((folder / name).is_file() for name in own))
    return next(whole, None)


def _leftovers(folder: Path) -> str:
    """Say why a folder has no tokenizer: it has files that look like one, or none."""
    names = [name for own in _VOCABULARIES for name in own if (folder / name).is_file()]
    if names:
        (needed,) = {"vocab.json", "merges.txt"} - set(names)
        return f"{names[0]} is there without {needed}"
    found = {path.name for pattern in _OTHER_VOCABULARIES for path in folder.glob(pattern)}
    if found:
        return f"{clipped(', '.join(sorted(found)), 200)} is not a tokenizer that rbe can read"
    return _NONE


def _without(reason: str) -> FoundTokenizer:
    """Return no tokenizer, and a note why if there are files of one."""
    if reason == _NONE:
        return FoundTokenizer(None, missing=reason)
    note = f"no tokenizer is stored, so the file will take token ids only: {reason}"
    return FoundTokenizer(None, (note,), reason)


def _build(
    folder: Path, files: tuple[str, ...], settings: TokenizerSettings, vocab_size: int
) -> "Tokenizer":
    """Return the tokenizer of vocabulary files other than `tokenizer.json`."""
    from tokenizers import models

    if settings.class_name in _SPLIT_BY_DICTIONARY:
        raise UnsupportedTokenizerError(
            f"belongs to a {settings.class_name}, which splits words by a dictionary"
        )
    path = folder / files[0]
    if files == ("vocab.json", "merges.txt"):
        vocabulary, merges = read_vocabulary(path), read_merges(folder / "merges.txt")
        check_counts(len(vocabulary), len(merges), vocab_size)
        check_ids(vocabulary, vocab_size)
        tokenizer = byte_level(models.BPE(vocabulary, merges), settings, vocab_size)
        add_ends(tokenizer, settings, GPT2_TOKENS)
        return tokenizer
    if files == ("vocab.txt",):
        lines = read_vocabulary_lines(path)
        check_counts(len(lines), 0, vocab_size)
        return word_piece(lines, settings, vocab_size)
    data = read_bounded(path, MAX_SENTENCE_PIECE_BYTES)
    if _TIKTOKEN_LINE.match(data):
        raise UnsupportedTokenizerError("is a tiktoken vocabulary")
    with errors_name(path):
        model = parse_sentence_piece(data, max_tokens(vocab_size))
    return sentence_piece(model, settings, vocab_size)


def _class_notes(files: tuple[str, ...], name: str | None) -> Iterator[str]:
    """Return a note if the tokenizer's class has rules that are not known here."""
    known: tuple[str, ...] = SENTENCE_PIECE_CLASSES
    if len(files) == 2:
        known = (_GPT2,)
    elif files == ("vocab.txt",):
        known = (_BERT,)
    if name is not None and name not in (*known, *_GENERAL_CLASSES):
        named = clipped(name, QUOTED_CHARACTERS)
        yield f"rules that {named} may add to {files[0]} are not known: its ids may differ"


def _from_tokenizer_json(path: Path, vocab_size: int) -> FoundTokenizer:
    """Return a `tokenizer.json` with what the settings beside it change.

    The classes of GPT-2 and BERT build their tokenizer from the vocabulary in the file, so that
    their options come from `tokenizer_config.json` alone. A file that is not changed stays as it
    is, byte for byte.
    """
    from tokenizers import Tokenizer

    refuse_placeholder(path)
    content = read_bounded(path, MAX_TOKENIZER_BYTES).removeprefix(BOM_UTF8)
    with errors_name(path):
        check_tokenizer_json(content, vocab_size)
    with library_errors(CheckpointError, f"{path} cannot be read as a tokenizer"):
        stored = Tokenizer.from_buffer(content)
    raw = read_json_object(path, MAX_TOKENIZER_BYTES)
    settings = read_settings(path.parent, raw.get("added_tokens") or ())
    with errors_name(path):
        check_added_tokens(settings.contents, raw)
    with library_errors(CheckpointError, f"{path} does not fit the files beside it"):
        tokenizer, is_same = _fit(stored, content, raw, settings, vocab_size)
    with errors_name(path):
        notes = tuple(_notes(tokenizer, settings, vocab_size))
    return FoundTokenizer(content if is_same else tokenizer.to_str().encode(), notes)


def _fit(
    stored: "Tokenizer",
    content: bytes,
    raw: dict[str, Any],
    settings: TokenizerSettings,
    vocab_size: int,
) -> "tuple[Tokenizer, bool]":
    """Return a stored tokenizer as the settings want it, and whether it is the same as before."""
    from tokenizers import Tokenizer, models

    if settings.class_name in (None, _GPT2) and _is_gpt2(raw):
        tokenizer = byte_level(stored.model, settings, vocab_size)
        if stored.post_processor is not None:
            tokenizer.post_processor = stored.post_processor
    elif settings.class_name == _BERT and isinstance(stored.model, models.WordPiece):
        tokenizer = word_piece(raw["model"]["vocab"], settings, vocab_size)
    else:
        tokenizer = Tokenizer.from_buffer(content)
        add_tokens(tokenizer, settings, {}, vocab_size)
    for own in (stored, tokenizer):
        own.no_truncation()
        own.no_padding()
    return tokenizer, tokenizer.to_str() == stored.to_str()


def _is_gpt2(raw: dict[str, Any]) -> bool:
    """Return whether a `tokenizer.json` is of GPT-2's kind: BPE over bytes, not normalised."""
    is_bpe = raw["model"].get("type") in (None, "BPE") and "merges" in raw["model"]
    cut = raw.get("pre_tokenizer") or {}
    return is_bpe and cut.get("type") == "ByteLevel" and raw.get("normalizer") is None


def _notes(tokenizer: "Tokenizer", settings: TokenizerSettings, vocab_size: int) -> Iterator[str]:
    """Yield notes for the user about the tokenizer's ids."""
    moved = [
        f"{clipped(token.content, 40)} (id {tokenizer.token_to_id(token.content)}, not {number})"
        for number, token in settings.added.items()
        if tokenizer.token_to_id(token.content) != number
    ]
    if moved:
        yield (
            "added tokens have other ids than the files say, as in the transformers library: "
            f"{', '.join(moved[:5])}"
        )
    ids = set(tokenizer.get_vocab().values())
    highest = max(ids, default=-1)
    if highest >= vocab_size:
        yield (
            f"the tokenizer has ids up to {highest}, but the model's vocabulary has {vocab_size} "
            "tokens: text that needs the others will be refused"
        )
    unnamed = vocab_size - sum(token < vocab_size for token in ids)
    if unnamed:
        yield f"{unnamed} of the model's {vocab_size} ids have no token, and so no text"
    if around := _surroundings(tokenizer):
        shown = clipped(" ".join(around), 200)
        yield f"special tokens surround each text, and so each prompt: {shown}"
    if settings.flag("split_special_tokens", False):
        yield "split_special_tokens in tokenizer_config.json is not supported: it has no effect"


def _surroundings(tokenizer: "Tokenizer") -> list[str]:
    """Return the special tokens that an empty text gets."""
    with library_errors(CheckpointError, "the tokenizer cannot encode an empty text"):
        ids = encode(tokenizer, "")
    added = tokenizer.get_added_tokens_decoder()
    return [added[token].content for token in ids if token in added and added[token].special]
