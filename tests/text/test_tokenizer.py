"""Encoding and decoding round trips, streams of whole characters, tokenizers that do not fit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.errors import BadFileError, UsageError
from rbe_cli.text.tokenizer import Tokenizer

MULTIBYTE = "naïve 中文字 🙂👩‍🚀 ﷽ end"


@given(text=st.text())
def test_any_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == text


def test_characters_split_over_tokens_stream_whole(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(MULTIBYTE).tolist()
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokens]
    assert len(tokens) > len(MULTIBYTE)  # several tokens a character
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == MULTIBYTE
    assert stream.finish() == ""


@given(data=st.data())
def test_pieces_add_up_to_the_decoded_tokens(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Also where the bytes are no UTF-8, or a character is cut short at the end."""
    tokens = data.draw(st.lists(st.integers(0, 299)))
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokens] + [stream.finish()]
    assert "".join(pieces) == tokenizer.decode(tokens)


def test_a_character_cut_short_is_released_at_the_end_only(small_tokenizer: Tokenizer) -> None:
    stream = small_tokenizer.stream()
    tokens = small_tokenizer.encode("🙂").tolist()
    assert [stream.push(token) for token in tokens[:-1]] == ["", "", ""]
    assert stream.finish() == "\ufffd"


def test_special_tokens_are_encoded_and_decoded_by_name(small_tokenizer: Tokenizer) -> None:
    tokens = small_tokenizer.encode("a<|endoftext|>b").tolist()
    assert tokens[1] == 0
    assert small_tokenizer.decode(tokens) == "a<|endoftext|>b"


def test_ids_without_a_token_decode_to_nothing(small_tokenizer: Tokenizer) -> None:
    assert small_tokenizer.decode([5000]) == ""


def test_empty_text_has_no_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("").size == 0


def test_long_texts_encode(small_tokenizer: Tokenizer) -> None:
    text = "It was the best of times. " * 40_000  # 1 MB
    tokens = small_tokenizer.encode(text)
    assert small_tokenizer.decode(tokens.tolist()) == text
    one_word = "e" * 100_000
    assert small_tokenizer.decode(small_tokenizer.encode(one_word).tolist()) == one_word


def test_truncation_and_padding_in_the_file_are_ignored(tokenizer_json: bytes) -> None:
    raw = json.loads(tokenizer_json)
    raw["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    raw["padding"] = {
        "strategy": {"Fixed": 500},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    text = "The quick brown fox"
    plain = Tokenizer(tokenizer_json, 300).encode(text)
    assert Tokenizer(json.dumps(raw).encode(), 300).encode(text).tolist() == plain.tolist()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"model": {"type": "BPE"}}'])
def test_what_is_no_tokenizer_is_a_bad_file(content: bytes) -> None:
    with pytest.raises(BadFileError, match="the tokenizer cannot be read"):
        Tokenizer(content, 300)


def test_a_truncated_tokenizer_is_a_bad_file(tokenizer_json: bytes) -> None:
    with pytest.raises(BadFileError, match="the tokenizer cannot be read"):
        Tokenizer(tokenizer_json[: len(tokenizer_json) // 2], 300)


def test_an_id_outside_the_model_is_a_bad_file(tokenizer_json: bytes) -> None:
    small = Tokenizer(tokenizer_json, 100)
    assert small.encode("!").tolist() == [1]  # ids that the model knows still work
    with pytest.raises(BadFileError, match=r"does not belong to this model.* has 100 tokens"):
        small.encode("The 🙂")


def test_a_word_level_tokenizer_without_the_word_is_a_bad_file() -> None:
    raw = {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}}
    with pytest.raises(BadFileError, match="the tokenizer cannot encode the text"):
        Tokenizer(json.dumps(raw).encode(), 300).encode("b")


def test_lone_surrogates_are_a_usage_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="not valid Unicode"):
        tokenizer.encode("a\udcff")


SLOW_PATTERN = {"Regex": "(a|aa)+$"}  # so slow on many a's that the library gives up and panics


def with_part(tokenizer_json: bytes, name: str, part: dict[str, object]) -> Tokenizer:
    return Tokenizer(json.dumps(json.loads(tokenizer_json) | {name: part}).encode(), 300)


def test_a_panic_of_the_library_while_it_encodes_is_a_bad_file(
    tokenizer_json: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    part = {"type": "Split", "pattern": SLOW_PATTERN, "behavior": "Isolated", "invert": False}
    tokenizer = with_part(tokenizer_json, "pre_tokenizer", part)
    with pytest.raises(BadFileError, match=r"cannot encode the text: .*retry-limit"):
        tokenizer.encode("a" * 60 + "b")
    assert capfd.readouterr().err == ""


def test_a_panic_while_it_decodes_is_a_bad_file(
    tokenizer_json: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    strip = {"type": "Strip", "content": "a", "start": 1 << 63, "stop": 1 << 63}
    tokenizer = with_part(tokenizer_json, "decoder", strip)
    with pytest.raises(BadFileError, match=r"cannot decode its tokens: index out of bounds"):
        tokenizer.decode([65, 66])
    assert capfd.readouterr().err == ""


def test_a_regular_expression_that_takes_long_is_a_bad_file(tokenizer_json: bytes) -> None:
    regex = {"Regex": "(a|a){19}(?<=b)"}
    part = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
    tokenizer = with_part(tokenizer_json, "pre_tokenizer", part)
    with pytest.raises(BadFileError, match="cannot encode the text: it takes too long"):
        tokenizer.encode("a" * 150)


def test_a_panic_while_it_is_read_is_a_bad_file(
    tokenizer_json: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    part: dict[str, object] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    with pytest.raises(BadFileError, match=r"the tokenizer cannot be read: .*charsmap"):
        with_part(tokenizer_json, "normalizer", part)
    assert capfd.readouterr().err == ""
