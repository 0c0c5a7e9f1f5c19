"""Small tokenizers of every kind, with which cases begin."""

import json
from typing import Any

Part = dict[str, Any]

SETTINGS = {
    "tokenizer_config.json": json.dumps(
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False}
        | {"added_tokens_decoder": {"3": {"content": "<x>", "special": True}}, "bos_token": "<s>"}
    ).encode(),
    "special_tokens_map.json": b'{"eos_token": "</s>", "additional_special_tokens": ["<y>"]}',
    "added_tokens.json": b'{"<z>": 50}',
}
"""The files beside a vocabulary."""

_LETTERS = {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "t": 4, "<unk>": 6, "h": 7, "e": 8}
_BPE: Part = {
    **{"type": "BPE", "vocab": _LETTERS, "merges": ["a b"], "unk_token": "<unk>", "dropout": None},
    **{"byte_fallback": False, "fuse_unk": False, "ignore_merges": False},
}
_UNIGRAM: Part = {
    "type": "Unigram",
    "unk_id": 0,
    "vocab": [["<unk>", 0.0], ["a", -1.0], ["▁", -2.0], ["ab", -1.5], ["<0x41>", -9.0]],
    "byte_fallback": True,
}
_WORD_PIECE: Part = {
    **{"type": "WordPiece", "vocab": _LETTERS, "unk_token": "<unk>"},
    **{"continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
}
_WORD_LEVEL: Part = {"type": "WordLevel", "vocab": _LETTERS, "unk_token": "<unk>"}
_BYTE_LEVEL: Part = {
    **{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
}
_METASPACE: Part = {
    **{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
}
_SPLIT: Part = {
    **{"type": "Split", "pattern": {"Regex": "\\s+|a+"}, "behavior": "Isolated", "invert": False}
}
_REPLACE: Part = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
_STRIP: Part = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_TEXT: Part = {"Sequence": {"id": "A", "type_id": 0}}
_END = "<|endoftext|>"
_TEMPLATE: Part = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": _END, "type_id": 0}}, _TEXT],
    "pair": [_TEXT],
    "special_tokens": {_END: {"id": _END, "ids": [5], "tokens": [_END]}},
}
_ADDED: list[Part] = [
    {"id": 5, "content": _END, "single_word": False, "lstrip": False, "rstrip": False}
    | {"normalized": False, "special": True}
]


def _tokenizer(**parts: Any) -> Part:
    """Return a whole `tokenizer.json`, in which the parts that are not given are null."""
    names = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {"version": "1.0", **dict.fromkeys(names), "added_tokens": _ADDED, **parts}


TOKENIZERS: tuple[Part, ...] = (
    _tokenizer(
        model=_BPE, pre_tokenizer=_BYTE_LEVEL, decoder=_BYTE_LEVEL, post_processor=_TEMPLATE
    ),
    _tokenizer(
        model=_UNIGRAM,
        pre_tokenizer=_METASPACE,
        normalizer=_REPLACE,
        decoder={
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, _STRIP],
        },
    ),
    _tokenizer(
        model=_WORD_PIECE,
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    ),
    _tokenizer(
        model=_WORD_LEVEL,
        pre_tokenizer=_SPLIT,
        normalizer={"type": "Sequence", "normalizers": [_REPLACE, {"type": "NFKC"}]},
    ),
    _tokenizer(
        model=_BPE,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [_SPLIT, _BYTE_LEVEL]},
        decoder=_BYTE_LEVEL,
    ),
)


def tokenizer_folders() -> list[dict[str, bytes]]:
    """Return the files of small tokenizers, by name."""
    vocab = json.dumps({"a": 0, "b": 1, "ab": 2, "<unk>": 3, "Ġ": 4}).encode()
    gpt2 = {"tokenizer_config.json": b'{"tokenizer_class": "GPT2Tokenizer", "eos_token": "a"}'}
    bert = {"tokenizer_config.json": b'{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'}
    whole = [json.dumps(own).encode() for own in TOKENIZERS]
    return [
        {"vocab.json": vocab, "merges.txt": b"#version: 0.2\na b\n", **gpt2},
        {"vocab.txt": b"[UNK]\n[CLS]\n[SEP]\na\n##b\n", **bert},
        *({"tokenizer.json": own, **SETTINGS} for own in whole),
        {"tokenizer.json": whole[0], **gpt2},
        {"tokenizer.json": whole[2], **bert},
    ]
