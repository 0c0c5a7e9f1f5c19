"""Log-probabilities of tokens against float64 softmax, and beside every way to choose them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rbe_cli.text.generation import generate
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.logprobs import TokenLogprob, chosen_logprob
from rbe_cli.text.tokenizer import Tokenizer

MakeSession = Callable[..., Any]


def log_p(logits: Any) -> Any:
    wide = np.asarray(logits, np.longdouble)
    return wide - np.log(np.exp(wide - wide.max()).sum()) - wide.max()


@pytest.mark.parametrize("count", [0, 1, 7, 300, 1000])
def test_values_are_those_of_the_softmax(count: int) -> None:
    logits = np.random.default_rng(0).normal(0, 5, 300).astype(np.float32)
    expected = log_p(logits)
    found = chosen_logprob(logits, 17, count, None)
    assert (found.token, found.text) == (17, None)
    assert found.logprob == pytest.approx(float(expected[17]), rel=1e-12)
    likeliest = np.argsort(-expected)[:count]
    assert [own.token for own in found.top] == likeliest.tolist()
    assert [own.logprob for own in found.top] == pytest.approx(expected[likeliest].astype(float))


def test_equally_likely_tokens_come_in_order_of_their_ids() -> None:
    logits = np.array([0, 2, 1, 2, 1, 2], np.float32)
    assert [own.token for own in chosen_logprob(logits, 0, 4, None).top] == [1, 3, 5, 2]


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([3e38, -3e38, 3e38], np.float32)
    found = chosen_logprob(logits, 0, 3, None)
    assert found.logprob == pytest.approx(-np.log(2))
    assert found.top[-1].logprob < -1e38


def test_texts_are_the_tokens_own(small_tokenizer: Tokenizer) -> None:
    logits = np.zeros(300, np.float32)
    (token,) = small_tokenizer.encode("T").tolist()
    found = chosen_logprob(logits, token, 1, small_tokenizer)
    assert found.text == "T"
    assert found.top == [TokenLogprob(0, "<|endoftext|>", pytest.approx(-np.log(300)))]


def test_text_of_a_token_is_its_part_of_a_text(tokenizer: Tokenizer) -> None:
    text = " The quick brown fox, naïve 中 one"
    tokens = tokenizer.encode(text).tolist()
    pieces = [tokenizer.token_text(token) for token in tokens]
    assert pieces[0] == " " or pieces[0].startswith(" T")
    whole = [piece for piece in pieces if "\ufffd" not in piece]
    assert len(whole) >= len(pieces) - 5
    position = 0
    for piece in whole:
        position = text.index(piece, position) + len(piece)


def test_draft_tokens_have_the_same_values(make_session: MakeSession) -> None:
    """A session that repeats itself, so that draft tokens are accepted and rejected."""

    def steps(lookup: bool) -> Any:
        session = make_session(rows=1, n_positions=200)
        session.logits = lambda cache: loop(len(cache))
        options = GenerationOptions(max_tokens=90, greedy=True, lookup=lookup, logprobs=3)
        return session, list(generate(session, [np.array([5, 6])], options, None, ()))

    def loop(length: int) -> Any:
        rng = np.random.default_rng(length)
        logits = rng.standard_normal(300).astype(np.float32)
        logits[10 + length % 7 + (length % 31 == 0)] = 9
        return logits

    drafting, found = steps(lookup=True)
    assert any(len(tokens) > 2 for tokens in drafting.extensions)
    assert found == steps(lookup=False)[1]
    for step in found:
        assert step.logprobs.token == step.token == step.logprobs.top[0].token


def test_a_row_of_a_batch_has_the_values_of_its_own_logits(make_session: MakeSession) -> None:
    session = make_session(rows=3)
    prompts = [np.array(tokens) for tokens in ([1, 2], [3], [4, 5, 6])]
    options = GenerationOptions(max_tokens=5, seed=2, logprobs=0, temperature=2.0)
    histories = [prompt.tolist() for prompt in prompts]
    for step in generate(session, prompts, options, None, ()):
        expected = log_p(session.logits(histories[step.row]))[step.token]
        assert step.logprobs is not None
        assert step.logprobs.logprob == pytest.approx(float(expected))
        histories[step.row].append(step.token)


def test_none_are_computed_unless_asked_for(make_session: MakeSession) -> None:
    options = GenerationOptions(max_tokens=3)
    steps = list(generate(make_session(rows=1), [np.array([1])], options, None, ()))
    assert [step.logprobs for step in steps] == [None] * 3
