"""The loop over sessions that note what they are asked: rows, ends, text, overflow, errors."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rbe_cli.errors import RbeError, UsageError
from rbe_cli.text.generation import GenerationStep, generate
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.tokenizer import Tokenizer

MakeSession = Callable[..., Any]
PROMPTS = [[5, 6, 7], [8], [9, 10], [5, 6, 7]]


def arrays(prompts: Iterable[list[int]]) -> list[NDArray[np.int64]]:
    return [np.array(prompt, dtype=np.int64) for prompt in prompts]


def run(
    session: Any,
    prompts: list[list[int]],
    tokenizer: Tokenizer | None = None,
    eos: tuple[int, ...] = (),
    **options: Any,
) -> list[GenerationStep]:
    chosen = GenerationOptions(**options)
    return list(generate(session, arrays(prompts), chosen, tokenizer, eos))


def tokens_of(steps: list[GenerationStep], row: int) -> list[int]:
    return [step.token for step in steps if step.row == row]


def text_of(steps: list[GenerationStep]) -> str:
    return "".join(step.text for step in steps)


# Tokens


def test_greedy_tokens_follow_the_likeliest_path(make_session: MakeSession) -> None:
    session = make_session(rows=1)
    path = [5, 6, 7]
    for _ in range(12):
        path.append(int(session.logits(path).argmax()))
    steps = run(session, [[5, 6, 7]], greedy=True, max_tokens=12)
    assert tokens_of(steps, 0) == path[3:]
    assert session.caches[0] == path[:-1]  # the last token was never needed
    assert session.prefills == [(0, [5, 6, 7])]


def test_a_row_does_not_depend_on_the_batch(make_session: MakeSession) -> None:
    batch = run(make_session(rows=4), PROMPTS, seed=3, max_tokens=10)
    pair = run(make_session(rows=2), PROMPTS[:2], seed=3, max_tokens=10)
    alone = run(make_session(rows=1), PROMPTS[:1], seed=3, max_tokens=10)
    assert tokens_of(batch, 0) == tokens_of(pair, 0) == tokens_of(alone, 0)
    assert tokens_of(batch, 1) == tokens_of(pair, 1)
    assert tokens_of(batch, 0) != tokens_of(batch, 3)  # the same prompt, another row


def test_the_seed_decides(make_session: MakeSession) -> None:
    first, again, other = (
        tokens_of(run(make_session(rows=1), [[5]], seed=seed, max_tokens=20), 0)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_session_that_was_used_before_starts_anew(make_session: MakeSession) -> None:
    session = make_session(rows=1)
    assert run(session, [[5]]) == run(session, [[5]])


def test_rows_leave_the_batch_as_they_end(make_session: MakeSession) -> None:
    session = make_session(rows=3, n_positions=8)
    steps = run(session, [[1] * 6, [2] * 3, [3] * 8], max_tokens=4)
    assert session.batches == [[0, 1], [0, 1], [1]]
    ends = {step.row: step.finish_reason for step in steps if step.finish_reason}
    assert ends == {0: "context", 1: "length", 2: "context"}
    assert [len(tokens_of(steps, row)) for row in range(3)] == [3, 4, 1]


# Ends


def test_eos_ends_the_row_without_text(
    make_script: MakeSession, small_tokenizer: Tokenizer
) -> None:
    script = [*small_tokenizer.encode("fox").tolist(), 0, 50]
    steps = run(make_script(script), [[1]], small_tokenizer, eos=(0,), greedy=True)
    assert tokens_of(steps, 0) == script[:-1]
    assert text_of(steps) == "fox"
    assert [step.finish_reason for step in steps] == [None] * (len(script) - 2) + ["eos"]


def test_without_an_eos_token_none_ends_the_row(
    make_script: MakeSession, small_tokenizer: Tokenizer
) -> None:
    steps = run(make_script([0, 50]), [[1]], small_tokenizer, greedy=True, max_tokens=2)
    assert text_of(steps) == small_tokenizer.decode([0, 50])
    assert steps[-1].finish_reason == "length"


def test_a_stop_string_over_several_tokens(
    make_script: MakeSession, small_tokenizer: Tokenizer
) -> None:
    script = small_tokenizer.encode("one E two END three").tolist()
    steps = run(
        make_script(script), [[1]], small_tokenizer, greedy=True, stop=("END", "\n"), max_tokens=99
    )
    assert text_of(steps) == "one E two "
    assert steps[-1].finish_reason == "stop"
    assert len(steps) < len(script)


def test_an_undecided_stop_string_is_released_at_the_end(
    make_script: MakeSession, small_tokenizer: Tokenizer
) -> None:
    script = small_tokenizer.encode("one EN").tolist()
    options: dict[str, Any] = {"greedy": True, "stop": ("END",), "max_tokens": len(script)}
    steps = run(make_script(script), [[1]], small_tokenizer, **options)
    assert text_of(steps[:-1]) == "one "
    assert steps[-1].text == "EN"
    assert steps[-1].finish_reason == "length"


# Text


def test_multibyte_characters_stream_whole(make_script: MakeSession, tokenizer: Tokenizer) -> None:
    text = "中文 🙂 naïve"
    script = tokenizer.encode(text).tolist()
    session = make_script(script, vocab_size=4096)
    steps = run(session, [[1]], tokenizer, greedy=True, max_tokens=len(script))
    assert text_of(steps) == text
    assert any(step.text == "" for step in steps)
    assert not any("\ufffd" in step.text for step in steps)


def test_text_is_that_of_the_tokens(make_session: MakeSession, small_tokenizer: Tokenizer) -> None:
    """Random tokens make much that is no UTF-8."""
    steps = run(make_session(rows=1), [[5]], small_tokenizer, top_k=0, max_tokens=60)
    assert text_of(steps) == small_tokenizer.decode(tokens_of(steps, 0))


def test_without_a_tokenizer_there_is_no_text(make_session: MakeSession) -> None:
    steps = run(make_session(rows=1), [[5]], max_tokens=5)
    assert len(steps) == 5
    assert text_of(steps) == ""


# Overflow


@pytest.mark.parametrize("prompt_tokens", [1, 7, 8])
def test_stop_uses_every_position(make_session: MakeSession, prompt_tokens: int) -> None:
    steps = run(make_session(rows=1, n_positions=8), [[5] * prompt_tokens])
    assert len(steps) == 8 - prompt_tokens + 1  # the last token is known, but cannot be fed
    assert steps[-1].finish_reason == "context"


def test_max_tokens_goes_before_context(make_session: MakeSession) -> None:
    steps = run(make_session(rows=1, n_positions=8), [[5] * 8], max_tokens=1)
    assert [step.finish_reason for step in steps] == ["length"]


def test_shift_goes_on_with_the_newest_half(make_session: MakeSession) -> None:
    session = make_session(rows=1, n_positions=8)
    steps = run(session, [[1, 2, 3]], on_overflow="shift", max_tokens=20)
    history = [1, 2, 3, *tokens_of(steps, 0)]
    assert len(steps) == 20
    assert steps[-1].finish_reason == "length"
    # After 9 tokens (8 cached, 1 to come) the newest 4 are kept; then again every 5.
    refills = [(0, history[end - 4 : end]) for end in (9, 14, 19)]
    assert session.prefills == [(0, [1, 2, 3]), *refills]


def test_shift_of_one_row_leaves_the_others_alone(make_session: MakeSession) -> None:
    prompts = [[1] * 8, [2], [3] * 5]
    together = run(make_session(rows=3, n_positions=8), prompts, on_overflow="shift", max_tokens=9)
    first = run(make_session(rows=1, n_positions=8), prompts[:1], on_overflow="shift", max_tokens=9)
    assert tokens_of(together, 0) == tokens_of(first, 0)
    assert [len(tokens_of(together, row)) for row in range(3)] == [9, 9, 9]


def test_a_context_of_one_token_still_shifts(make_session: MakeSession) -> None:
    steps = run(make_session(rows=1, n_positions=1), [[5]], on_overflow="shift", max_tokens=3)
    assert len(steps) == 3


def test_a_prompt_longer_than_the_context(make_session: MakeSession) -> None:
    prompt = list(range(20))
    with pytest.raises(UsageError, match="20 tokens but the model's context holds 8"):
        run(make_session(rows=1, n_positions=8), [prompt])
    session = make_session(rows=1, n_positions=8)
    assert len(run(session, [prompt], on_overflow="shift", max_tokens=3)) == 3
    assert session.prefills == [(0, prompt[-4:])]


# Errors


def test_errors_come_at_the_call(make_session: MakeSession) -> None:
    session, options = make_session(rows=2), GenerationOptions()
    with pytest.raises(UsageError, match="the prompt is empty"):
        generate(session, arrays([[1], []]), options, None, ())
    with pytest.raises(UsageError, match="`stop` needs a tokenizer"):
        generate(session, arrays([[1]]), GenerationOptions(stop=(".",)), None, ())
    assert session.prefills == []


def test_logits_that_are_not_finite_are_an_error(make_session: MakeSession) -> None:
    session = make_session(rows=1)
    session.logits = lambda cache: np.full(300, np.nan, np.float32)
    with pytest.raises(RbeError, match="logits are not finite"):
        run(session, [[1]])
