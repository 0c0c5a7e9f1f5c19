"""Streamed text is the whole text: for every kind of tokenizer, context and sequence of ids."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import unlike_tokenizers
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from rbe_cli.text.generation import generate
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.tokenizer import Tokenizer

MakeSession = Callable[..., Any]


def wrapped(backend: Backend) -> Tokenizer:
    return Tokenizer(backend.to_str().encode(), backend.get_vocab_size())


TOKENIZERS = {make.__name__: wrapped(make()) for make in unlike_tokenizers.ALL}
BYTE_FALLBACK = TOKENIZERS["byte_fallback"]


def ids(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    return [tokenizer.backend.token_to_id(token) for token in tokens]


def pieces_of(tokenizer: Tokenizer, context: list[int], tokens: list[int]) -> list[str]:
    stream = tokenizer.stream(context)
    return [*(stream.push(token) for token in tokens), stream.finish()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@examples(150)
@given(data=st.data())
def test_pieces_add_up_to_what_the_tokens_add_to_the_text(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    token = st.integers(0, tokenizer.backend.get_vocab_size() + 2)  # some ids have no token
    tokens = data.draw(st.lists(token, max_size=90))
    context = data.draw(st.lists(token, max_size=40))
    # What follows a context that ends inside a character is tested on its own.
    while context and tokenizer.decode(context).endswith("\ufffd"):
        context.pop()
    if tokenizer.ends_in_bytes(context):
        context.append(tokenizer.backend.token_to_id("s"))
    whole, before = tokenizer.decode(context + tokens), tokenizer.decode(context)
    assert whole.startswith(before)
    assert "".join(pieces_of(tokenizer, context, tokens)) == whole[len(before) :]


@pytest.mark.parametrize(
    ("kind", "context", "tokens", "expected"),
    [
        ("metaspace", ["▁the"], ["▁cat", "s"], [" cat", "s"]),
        ("metaspace", [], ["▁the", "▁cat"], ["the", " cat"]),
        ("metaspace", ["▁the"], ["▁", "▁▁", "▁cat"], [" ", "  ", " cat"]),
        ("byte_fallback", ["▁the"], ["▁cat"], [" cat"]),
        ("byte_fallback", ["▁"], ["▁cat"], [" cat"]),
        ("word_piece", ["cat"], ["##s", "sat", "."], ["s", " sat", "."]),
        ("end_of_word", ["t"], ["he", "cat</w>", "the</w>"], ["he", "cat", " the"]),
        ("without_decoder", ["the"], ["cat"], [" cat"]),
        ("byte_level", ["Ġthe"], ["Ġthe", "<|endoftext|>"], [" the", "<|endoftext|>"]),
    ],
)
def test_the_first_token_keeps_its_space(
    kind: str, context: list[str], tokens: list[str], expected: list[str]
) -> None:
    tokenizer = TOKENIZERS[kind]
    found = pieces_of(tokenizer, ids(tokenizer, *context), ids(tokenizer, *tokens))
    assert found == [*expected, ""]


ZHONG = ["<0xE4>", "<0xB8>", "<0xAD>"]  # 中


@pytest.mark.parametrize(
    ("context", "tokens", "expected"),
    [
        (["▁the"], [*ZHONG, "▁cat"], ["", "", "", "中 cat", ""]),
        (["▁the"], ZHONG, ["", "", "", "中"]),
        (["▁the"], ["<0x80>", "▁cat"], ["", "\ufffd cat", ""]),
        (["▁the"], ZHONG[:2], ["", "", "\ufffd\ufffd"]),
        # The prompt's own characters stay whole, whatever bytes follow.
        (["▁the", *ZHONG], ["<0x80>", "▁cat"], ["", "\ufffd cat", ""]),
        (ZHONG, ZHONG, ["", "", "", "中"]),
        # A prompt of ids may end inside a character.
        (["▁the", *ZHONG[:2]], [ZHONG[2], "▁cat"], ["", "中 cat", ""]),
        (["▁the", *ZHONG[:2]], ["▁cat"], [" cat", ""]),
    ],
)
def test_byte_tokens_wait_for_the_end_of_their_row(
    context: list[str], tokens: list[str], expected: list[str]
) -> None:
    found = pieces_of(BYTE_FALLBACK, ids(BYTE_FALLBACK, *context), ids(BYTE_FALLBACK, *tokens))
    assert found == expected


def test_a_prompt_of_ids_may_end_inside_a_character() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    zhong = tokenizer.encode("中").tolist()
    (the,) = ids(tokenizer, "Ġthe")
    assert pieces_of(tokenizer, [the, *zhong[:2]], zhong[2:]) == ["中", ""]
    assert pieces_of(tokenizer, [the, *zhong[:2]], [the]) == [" the", ""]


def test_wrong_bytes_do_not_wait_for_the_end() -> None:
    """Of bytes that form no character all but the last are shown at once."""
    tokenizer = TOKENIZERS["byte_level"]
    wrong = tokenizer.encode("é").tolist()[1]
    assert pieces_of(tokenizer, [], [wrong] * 3) == ["", "\ufffd", "\ufffd", "\ufffd"]


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "word_piece"])
@given(data=st.data())
def test_generated_text_is_the_whole_up_to_a_stop_string(
    kind: str, make_script: MakeSession, data: st.DataObject
) -> None:
    tokenizer = TOKENIZERS[kind]
    vocab_size = tokenizer.backend.get_vocab_size()
    script = data.draw(st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=30))
    prompt = ids(tokenizer, {"byte_level": "Ġthe", "byte_fallback": "▁the"}.get(kind, "the"))
    whole = tokenizer.decode(prompt + script)[len(tokenizer.decode(prompt)) :]
    stop = data.draw(st.sampled_from(["t", "\ufffd", " ", "at s", whole[-3:] or "x"]))
    options = GenerationOptions(max_tokens=len(script), greedy=True, stop=(stop,), lookup=False)
    session = make_script(script, vocab_size)
    steps = list(generate(session, [np.array(prompt)], options, tokenizer, ()))
    text = "".join(step.text for step in steps)
    assert text == whole.split(stop)[0]
