"""Tokenizers: tokenizer.json, vocabularies with their settings, and SentencePiece models."""

import json
import struct
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from fuzz.byte_mutations import mutated_bytes
from fuzz.config_kinds import json_like
from fuzz.draws import Draws, joined
from fuzz.kinds import InputKind, check_notes, need
from fuzz.scratch import SCRATCH
from fuzz.tokenizer_seeds import SETTINGS, TOKENIZERS, tokenizer_folders
from fuzz.tree_mutations import TreeMutator

from rbe_cli.checkpoint.tokenizer.sentence_piece import SENTENCE_PIECE_CLASSES
from rbe_cli.checkpoint.tokenizer.sentence_piece_model import parse_sentence_piece
from rbe_cli.checkpoint.tokenizer.tokenizer_files import read_tokenizer
from rbe_cli.checkpoint.tokenizer_limits import max_tokens
from rbe_cli.errors import BadFileError, CheckpointError, NotFoundError, UsageError
from rbe_cli.text.tokenizer import Tokenizer

_MODELS = Path(__file__).parents[1] / "checkpoint" / "fixtures" / "sentence_piece"
_VOCAB_SIZE = 100
# Bytes: when the library panics for the first time, it reads 54 MB of its own symbols.
_PANIC_MEMORY = 80 << 20
_TEXTS = (
    "",
    "the quick",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
    "é\u0301 你好 😀 <s>\n\t ",
    "<|endoftext|>",
)
_WORDS = (
    *("BPE", "Unigram", "WordPiece", "WordLevel", "ByteLevel", "Sequence", "Split", "Replace"),
    *("Precompiled", "Metaspace", "TemplateProcessing", "(a+)+$", "(?=(a+))a*b", "[", "Regex"),
    *("Lowercase", "NFKC", "Strip", "ByteFallback", "Fuse", "WhitespaceSplit", "Punctuation"),
    *(
        "GPT2Tokenizer",
        "BertTokenizer",
        "LlamaTokenizer",
        "T5Tokenizer",
        "<|endoftext|>",
        "a",
        "ab",
    ),
    *("type", "vocab", "merges", "added_tokens", "special", "normalizer", "pattern", "unk_token"),
    *("AlbertTokenizer", "XLMRobertaTokenizer", "GPTSw3Tokenizer", "extra_ids", "legacy", "<0x41>"),
)


class TokenizerJsonKind(InputKind):
    """The object of a tokenizer.json."""

    name: ClassVar[str] = "tokenizer-json"
    memory = _PANIC_MEMORY
    errors = (BadFileError, UsageError)
    share = 1.0

    @cached_property
    def _mutate(self) -> TreeMutator:
        return TreeMutator(_WORDS)

    def case(self, draws: Draws) -> Any:
        """Return the bytes of a tokenizer.json with one to three changes."""
        tree: Any = draws.one_of(TOKENIZERS)
        for _ in range(1 + draws.below(3)):
            tree = self._mutate(draws, tree)
        text = json.dumps(json_like(tree)).encode()
        return mutated_bytes(draws, text) if draws.below(16) == 0 else text

    def read(self, case: Any) -> None:
        """Load the tokenizer, encode some texts and decode their ids."""
        tokenizer = Tokenizer(case, _VOCAB_SIZE)
        for text in _TEXTS:
            try:
                ids = tokenizer.encode(text)
            except BadFileError as error:
                if "too long" in str(error):  # it would again
                    raise
                continue
            need(bool((ids < _VOCAB_SIZE).all()), "an id is outside the vocabulary")
            tokenizer.decode(ids.tolist())
        stream = tokenizer.stream((1,))
        for token in (2, 3, 99):
            stream.push(token)
        stream.finish()


class SentencePieceKind(InputKind):
    """A SentencePiece model without the files beside it."""

    name: ClassVar[str] = "sentencepiece"
    errors = (CheckpointError,)
    share = 0.5

    @cached_property
    def _seeds(self) -> list[list[bytes]]:
        return [_fields_of(path.read_bytes()) for path in sorted(_MODELS.glob("*.model"))]

    def case(self, draws: Draws) -> Any:
        """Return a model with some changed fields."""
        fields = draws.one_of(self._seeds)
        if draws.below(2):  # a model of few pieces is read faster
            fields = [*fields[: 1 + draws.below(8)], *fields[-3:]]
        for _ in range(1 + draws.below(3)):
            fields = _changed_fields(draws, fields)
        return joined(fields)

    def read(self, case: Any) -> None:
        """Parse the model."""
        model = parse_sentence_piece(case, max_tokens(_VOCAB_SIZE))
        need(len(model.pieces) <= len(case), "there are more pieces than bytes")


class TokenizerFolderKind(InputKind):
    """The files of a tokenizer in a folder, by their names."""

    name: ClassVar[str] = "tokenizer-folder"
    memory = _PANIC_MEMORY
    errors = (BadFileError, NotFoundError)
    share = 1.0

    @cached_property
    def _mutate(self) -> TreeMutator:
        return TreeMutator(_WORDS)

    @cached_property
    def _folders(self) -> list[dict[str, bytes]]:
        return tokenizer_folders()

    @cached_property
    def _pieces(self) -> SentencePieceKind:
        return SentencePieceKind()

    def case(self, draws: Draws) -> Any:
        """Return the files of a folder, one or two of them changed."""
        files = dict(draws.one_of(self._folders))
        if draws.below(4) == 0:
            files = {"tokenizer.model": self._pieces.case(draws), **SETTINGS}
            other = draws.one_of(SENTENCE_PIECE_CLASSES).encode()
            settings = files["tokenizer_config.json"].replace(b"LlamaTokenizer", other)
            files["tokenizer_config.json"] = settings
        for _ in range(1 + draws.below(2)):
            name = draws.one_of(list(files))
            data = files[name]
            if name.endswith(".json") and draws.below(8):
                try:
                    tree = self._mutate(draws, json.loads(data))
                except ValueError:
                    continue
                files[name] = json.dumps(json_like(tree)).encode()
            elif draws.below(16) == 0 and len(files) > 1:
                del files[name]
            else:
                files[name] = mutated_bytes(draws, data)
        return files

    def read(self, case: Any) -> None:
        """Read the folder's tokenizer, and load what comes of it."""
        SCRATCH.keep_only(set(case))
        for name, data in case.items():
            SCRATCH.write(name, data)
        found = read_tokenizer(SCRATCH.path, _VOCAB_SIZE)
        check_notes(found.notes)
        if found.json is not None:
            Tokenizer(found.json, _VOCAB_SIZE)


def _fields_of(model: bytes) -> list[bytes]:
    """Cut a protocol buffer into its fields, each with its key and length."""
    fields, place = [], 0
    while place < len(model):
        size, end = 0, place + 1
        while True:
            byte = model[end]
            size |= (byte & 127) << (7 * (end - place - 1))
            end += 1
            if byte < 128:
                break
        fields.append(model[place : end + size])
        place = end + size
    return fields


def _changed_fields(draws: Draws, fields: list[bytes]) -> list[bytes]:
    at, choice = draws.below(len(fields)), draws.below(8)
    before, own, after = fields[:at], fields[at], fields[at + 1 :]
    if choice == 0:
        return [*before, *after] or [b""]
    if choice == 1:
        return [*before, own, own, *after]
    if choice == 2:
        return [*before, _varint(draws.integer()), own, *after]
    if choice == 3:  # another field at the end of a message
        extra = _varint(draws.below(400)) + _varint(draws.integer())
        return [*before, own[:1] + _varint(len(own) - 2 + len(extra)) + own[2:] + extra, *after]
    if choice == 4:
        score = b"\x15" + struct.pack("<f", min(max(draws.floating(), -3e38), 3e38))
        return [*before, own[:1] + _varint(len(own) - 2 + 5) + own[2:] + score, *after]
    return [*before, mutated_bytes(draws, own), *after]


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
