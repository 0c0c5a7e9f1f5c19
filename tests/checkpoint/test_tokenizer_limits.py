"""Tokenizers that would take much time or memory: refused before the library builds them."""

import base64
import json
import time
import tracemalloc
from typing import Any

import pytest
from small_tokenizer import train_tokenizer

from rbe_cli.checkpoint.tokenizer_limits import (
    check_added_tokens,
    check_counts,
    check_tokenizer_json,
    max_tokens,
)
from rbe_cli.errors import CheckpointError

VOCAB_SIZE = 300
DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}


def check(**parts: Any) -> None:
    raw = json.loads(train_tokenizer()) | parts
    check_tokenizer_json(json.dumps(raw).encode(), VOCAB_SIZE)


def replace(pattern: str, content: str = "") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def sequence(key: str, *steps: object) -> dict[str, Any]:
    return {"type": "Sequence", key: list(steps)}


def template(*pieces: object, ids: int = 1) -> dict[str, Any]:
    special = {"<s>": {"id": "<s>", "ids": [0] * ids, "tokens": ["<s>"] * ids}}
    return {"type": "TemplateProcessing", "single": list(pieces), "special_tokens": special}


def charsmap(longest: int) -> str:
    return base64.b64encode(bytes(4) + b"x" * longest + b"\0ab\0").decode()


NO_TEXTS = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(4)).decode()}
SHORTER = {"type": "Replace", "pattern": {"String": "``"}, "content": '"'}


def nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        step = sequence("normalizers", step)
    return step


ALBERT = sequence(
    "normalizers",
    {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
    {"type": "NFKD"},
    {"type": "StripAccents"},
    {"type": "Lowercase"},
    {"type": "Precompiled", "precompiled_charsmap": charsmap(18)},
    replace(" {2,}", " "),
)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"normalizer": ALBERT, "pre_tokenizer": {"type": "Metaspace", "replacement": "_"}},
        {"normalizer": replace(r"\A +| +\z")},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "no base64"}},
        {"normalizer": nested(8)},
        {"decoder": sequence("decoders", DOUBLE, {"type": "Fuse"})},
        {"normalizer": sequence("normalizers", *[SHORTER] * 40)},
        {"post_processor": template({"SpecialToken": {"id": "<s>"}}, TEXT)},
        {"post_processor": template(TEXT) | {"special_tokens": {str(n): {} for n in range(65)}}},
        {"model": {"vocab": {"a": 131_671, "b": "x", "c": 1.5}}},
        {"model": None, "normalizer": [1], "added_tokens": [None, {}], "post_processor": "x"},
    ],
)
def test_what_is_usual_passes(parts: dict[str, Any]) -> None:
    check(**parts)


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({"model": {"vocab": {str(n): n for n in range(131_673)}}}, "131673 tokens, far too many"),
        (
            {"model": {"vocab": {"a": 131_672, "b": 0}}},
            "the id 131672, far too high",
        ),
        ({"model": {"vocab": [["a", 0]] * 131_673}}, "131673 tokens, far too many"),
        ({"model": {"merges": ["a b"] * 263_345}}, "263345 merges, far too many"),
        ({"added_tokens": [{}] * 131_673}, "131673 tokens, far too many"),
        ({"more": [0] * 800_000}, "far larger than a vocabulary of 300 needs"),
        ({"normalizer": sequence("normalizers", *[DOUBLE] * 14)}, "many times as long"),
        ({"normalizer": sequence("normalizers", NO_TEXTS, *[DOUBLE] * 14)}, "many times as long"),
        ({"normalizer": replace("a", "x" * 9000)}, "many times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 9000}}, "many times as long"),
        (
            {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 9000}},
            "many times as long",
        ),
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap(9000)}},
            "many times as long",
        ),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}, "cut off"),
        (
            {"pre_tokenizer": sequence("pretokenizers", *[{"type": "ByteLevel"}] * 7)},
            "many times as long",
        ),
        ({"decoder": sequence("decoders", *[DOUBLE] * 14)}, "many times as long"),
        ({"decoder": replace("(a+)+$")}, "decoder has a regular expression"),
        ({"normalizer": replace("(a+)+$")}, "normaliser has the regular expression"),
        ({"normalizer": replace("a*a*a*$")}, "normaliser has the regular expression"),
        ({"normalizer": nested(9)}, "nested over 8 deep"),
        ({"normalizer": sequence("normalizers", *[{"type": "Nmt"}] * 65)}, "more than 64 steps"),
        ({"post_processor": template(TEXT, TEXT)}, "adds too much"),
        ({"post_processor": template(*[{"SpecialToken": {"id": "<s>"}}] * 65)}, "adds too much"),
        ({"post_processor": template(TEXT, ids=65)}, "adds too much"),
    ],
)
def test_what_would_take_long_is_refused(parts: dict[str, Any], fault: str) -> None:
    with pytest.raises(CheckpointError, match=fault):
        check(**parts)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b"[" * 100_000, b'{"model":' * 100_000, b'{"a":' + b"9" * 5000 + b"}"],
)
def test_what_is_no_object_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        check_tokenizer_json(content, VOCAB_SIZE)


def test_a_tokenizer_of_very_many_bytes_is_refused() -> None:
    with pytest.raises(CheckpointError, match="more than 67108864 bytes"):
        check_tokenizer_json(b" " * ((64 << 20) + 1), VOCAB_SIZE)


def test_two_million_words_are_refused_at_once() -> None:
    words = ",".join(f'"w{number}":{number}' for number in range(2_000_000))
    content = f'{{"model":{{"type":"WordLevel","vocab":{{{words}}},"unk_token":"w0"}}}}'.encode()
    del words
    tracemalloc.start()
    try:
        start = time.process_time()
        with pytest.raises(CheckpointError, match="far larger"):
            check_tokenizer_json(content, 50257)
        assert time.process_time() - start < 5  # where 66 seconds went by before
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_more_tokens_than_the_model_has_are_allowed() -> None:
    assert max_tokens(262_144) > 262_144
    check_counts(50_257, 50_000, 100)
    check_counts(max_tokens(100), 2 * max_tokens(100), 100)
    with pytest.raises(CheckpointError, match="far too many for a model of 100 tokens"):
        check_counts(max_tokens(100) + 1, 0, 100)


def test_added_tokens_that_take_long_to_normalise_are_refused() -> None:
    slow = {"normalizer": replace("a*b*$")}
    check_added_tokens(["<extra_id_99>"] * 1000, slow)
    check_added_tokens(["x" * 1000], {"normalizer": {"type": "NFC"}})
    with pytest.raises(CheckpointError, match="added tokens are too long"):
        check_added_tokens(["x" * 1000], slow)


def test_added_tokens_without_a_normaliser_may_be_long() -> None:
    check_added_tokens(["x" * 100_000], {})
    check_added_tokens(["x" * 100_000], {"normalizer": DOUBLE})


def test_steps_and_templates_of_no_known_kind_are_left_to_the_library() -> None:
    check(normalizer={"type": 3, "content": 4}, post_processor={"type": "ByteLevel"})


@pytest.mark.parametrize("content", [b'"\xff"', b'{"model": "\xff"}', b'{"\xff": 1}'])
def test_a_text_that_is_not_utf8_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        check_tokenizer_json(content, 300)
