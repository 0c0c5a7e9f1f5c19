"""Read and write GPT-2's tokenizer (byte-level BPE) in the metadata of a GGUF file.

GGUF stores tokens, merges and special tokens as lists, and names the regular expression that
splits a text before merging. Only GPT-2's own (Radford et al., 2019, section 2.2) has a
counterpart here; a model with another tokenizer is read and written without it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rbe_cli.checkpoint.tokenizer_limits import check_counts
from rbe_cli.checkpoint.tokenizers_library import library_errors
from rbe_cli.errors import CheckpointError, UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.quoting import clipped, quoted

TOKENS = "tokenizer.ggml.tokens"
END_KEYS = ("eos", "eot", "eom")  # tokens that end a text for llama.cpp
_BYTE_LEVEL = "gpt2"  # the kind of tokenizer
# Names of GPT-2's regular expression. Files from before May 2024 have none, or this default.
_SPLITS = (None, "gpt-2", "default", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de")
# llama.cpp's kinds of tokens.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


@dataclass(frozen=True)
class ReadTokenizer:
    """Hold a `tokenizer.json`, or None, and what the user should know about it."""

    json: bytes | None
    notes: tuple[str, ...] = ()


def read_tokenizer(metadata: Mapping[str, Any], vocab_size: int) -> ReadTokenizer:
    """Build a `tokenizer.json` from a GGUF file's metadata.

    Raises:
        CheckpointError: the metadata contradict themselves, or are far larger than what a model of
            `vocab_size` tokens needs.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind in (None, "none", "no_vocab"):
        return ReadTokenizer(None)
    if kind != _BYTE_LEVEL or split not in _SPLITS:
        named = " with ".join(clipped(str(own), 40) for own in (kind, split) if own is not None)
        return ReadTokenizer(
            None,
            (f"its tokenizer ({named}) is not GPT-2's, and is left out: the model takes ids only",),
        )
    tokens, merges = metadata.get(TOKENS), metadata.get("tokenizer.ggml.merges", [])
    if not isinstance(tokens, list) or not isinstance(merges, list):
        raise CheckpointError("its tokenizer has no tokens, or merges that are not texts")
    kinds = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if not isinstance(kinds, list) or not all(type(kind) is int for kind in kinds):
        raise CheckpointError("its types of tokens are not numbers")
    if len(kinds) != len(tokens):
        raise CheckpointError(f"it has {len(tokens)} tokens, but {len(kinds)} types of tokens")
    check_counts(len(tokens), len(merges), vocab_size)
    with library_errors(CheckpointError, "its tokenizer cannot be built"):
        return ReadTokenizer(_build(tokens, kinds, merges, metadata))


def _build(
    tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], metadata: Mapping[str, Any]
) -> bytes:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    # llama.cpp fills the ids that the original tokenizer leaves out with unused tokens.
    used = [(id, token) for id, token in enumerate(tokens) if kinds[id] != _UNUSED]
    vocabulary = {token: id for id, token in used}
    # The space between the two parts; byte-level tokens hold none themselves.
    pairs = [(merge[:at], merge[at + 1 :]) for merge in merges if (at := merge.find(" ", 1)) > 0]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for special, kind in ((True, _CONTROL), (False, _USER_DEFINED)):
        added = [
            AddedToken(token, special=special, normalized=False)
            for id, token in used
            if kinds[id] == kind
        ]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    around = [_added_around(metadata, key, tokens) for key in ("bos", "eos")]
    if any(around):
        begin, end = ([own[0]] if own else [] for own in around)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*begin, "$A", *end], special_tokens=[own for own in around if own]
        )
    return tokenizer.to_str().encode()


def _added_around(
    metadata: Mapping[str, Any], key: str, tokens: Sequence[str]
) -> tuple[str, int] | None:
    """Return the token (`bos` or `eos`) that every text gets, with its id, or None."""
    if metadata.get(f"tokenizer.ggml.add_{key}_token") is not True:
        return None
    id = metadata.get(f"tokenizer.ggml.{key}_token_id")
    if type(id) is not int or not 0 <= id < len(tokens):
        raise ValueError(f"every text is to get a {key} token, and there is none")
    return tokens[id], id


@dataclass(frozen=True)
class GgufTokenizer:
    """Hold a tokenizer as GGUF stores it.

    Attributes:
        tokens: one for each id of the model; ids without a token have an unused one.
        kinds: llama.cpp's kind of each token.
        merges: the two parts of each, with a space between.
        adds_bos, adds_eos: whether every text gets this token.
    """

    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    adds_bos: bool
    adds_eos: bool


def to_gguf(tokenizer_json: bytes, config: Gpt2Config) -> GgufTokenizer:
    """Return a tokenizer in GGUF's form.

    Args:
        tokenizer_json: of the model.
        config: its number of tokens, and the ids of its special tokens.

    Raises:
        UsageError: GGUF has no form for it; says why.
        CheckpointError: it is not a `tokenizer.json`.
    """
    try:
        whole = json.loads(tokenizer_json)
        model, vocabulary = whole["model"], whole["model"]["vocab"]
        _check_byte_level(whole)
        added = {own["id"]: own for own in whole.get("added_tokens") or ()}
        ids = {id: token for token, id in vocabulary.items()}
        ids |= {id: own["content"] for id, own in added.items()}
        merges = [own if isinstance(own, list) else own.split(" ") for own in model["merges"]]
        around = _around(whole.get("post_processor"), config)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the tokenizer cannot be read: {quoted(error, 200)}") from error
    if not merges:
        raise UsageError("it has no merges")
    kinds = [_NORMAL if id in ids else _UNUSED for id in range(config.vocab_size)]
    for id, own in added.items():
        if id < len(kinds):
            kinds[id] = _CONTROL if own["special"] else _USER_DEFINED
    return GgufTokenizer(
        tokens=[ids.get(id, f"[PAD{id}]") for id in range(config.vocab_size)],
        kinds=kinds,
        merges=[" ".join(pair) for pair in merges],
        adds_bos=around[0],
        adds_eos=around[1],
    )


def _check_byte_level(whole: Mapping[str, Any]) -> None:
    """Refuse what is not BPE over bytes with GPT-2's regular expression."""
    model, splits = whole["model"], _flat(whole.get("pre_tokenizer"), "pretokenizers")
    if model["type"] != "BPE" or [own["type"] for own in splits] != ["ByteLevel"]:
        raise UsageError("it is not GPT-2's byte-level BPE")
    if whole.get("normalizer") is not None:
        raise UsageError("it changes the text before splitting it")
    if splits[0]["add_prefix_space"] or not splits[0].get("use_regex", True):
        raise UsageError("it does not split a text as GPT-2 does")
    others = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    if any(model.get(key) for key in others):
        raise UsageError("it does not merge tokens as GPT-2 does")


def _around(processor: Any, config: Gpt2Config) -> tuple[bool, bool]:
    """Return whether every text gets the model's first token before it, and an end after it."""
    found = (False, False)
    for own in _flat(processor, "processors"):
        if own["type"] == "TemplateProcessing":
            pieces = [
                own["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
                if "SpecialToken" in piece
                else None
                for piece in own["single"]
            ]
            bos, eos = [config.bos_token_id], list(config.eos_token_ids[:1])
            begins, ends = pieces[:1] == [bos], pieces[-1:] == [eos]
            if pieces != [bos] * begins + [None] + [eos] * ends:
                raise UsageError("it adds tokens to every text that are not the model's own")
            found = (begins, ends)
        elif own["type"] != "ByteLevel":  # which changes offsets, no ids
            raise UsageError(f"it adds tokens to every text ({own['type']})")
    return found


def _flat(part: Any, key: str) -> list[Any]:
    """Return a part of a tokenizer, or those that it is a sequence of."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [inner for own in part[key] for inner in _flat(own, key)]
    return [part]
