"""Results and timings of a run, against its steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rbe_cli.errors import UsageError
from rbe_cli.text.generation import generate
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.recording import GenerationStats, RecordedGeneration
from rbe_cli.text.tokenizer import Tokenizer

MakeSession = Callable[..., Any]
PROMPTS = [np.array(tokens, dtype=np.int64) for tokens in ([5, 6, 7], [8])]


def test_results_gather_the_steps(make_session: MakeSession, small_tokenizer: Tokenizer) -> None:
    options = GenerationOptions(max_tokens=6, seed=4)
    steps = list(generate(make_session(rows=2), PROMPTS, options, small_tokenizer, ()))
    run = RecordedGeneration(make_session(rows=2), PROMPTS, options, small_tokenizer, ())
    assert list(run) == steps
    assert [result.prompt_tokens for result in run.results] == [3, 1]
    for row, result in enumerate(run.results):
        assert result.tokens == [step.token for step in steps if step.row == row]
        assert result.text == small_tokenizer.decode(result.tokens)
        assert result.finish_reason == "length"


def test_every_token_through_the_model_is_counted(make_session: MakeSession) -> None:
    run = RecordedGeneration(
        make_session(rows=2), PROMPTS, GenerationOptions(max_tokens=6), None, ()
    )
    list(run)
    stats = run.stats
    assert (stats.prefill_tokens, stats.decode_tokens) == (4, 10)
    assert stats.prefill_tokens_per_second == 4 / stats.prefill_seconds
    assert stats.decode_tokens_per_second == 10 / stats.decode_seconds


def test_the_first_token_has_its_own_time(make_session: MakeSession) -> None:
    run = RecordedGeneration(make_session(rows=2), PROMPTS, GenerationOptions(), None, ())
    assert run.stats.time_to_first_token_seconds is None
    steps = iter(run)
    next(steps)
    first = run.stats.time_to_first_token_seconds
    assert first is not None
    assert first >= run.stats.prefill_seconds > 0  # so far, the first row's
    list(steps)
    assert run.stats.time_to_first_token_seconds == first


def test_an_interrupted_run_keeps_what_it_has(make_session: MakeSession) -> None:
    run = RecordedGeneration(make_session(rows=1), PROMPTS[:1], GenerationOptions(), None, ())
    steps = iter(run)
    taken = [next(steps).token for _ in range(3)]
    assert run.results[0].tokens == taken
    assert run.results[0].finish_reason is None


def test_there_is_no_speed_of_nothing() -> None:
    assert GenerationStats().prefill_tokens_per_second is None
    assert GenerationStats().decode_tokens_per_second is None


def test_errors_come_before_the_first_step(make_session: MakeSession) -> None:
    with pytest.raises(UsageError, match="the prompt is empty"):
        RecordedGeneration(make_session(rows=1), [PROMPTS[0][:0]], GenerationOptions(), None, ())
