"""Draft tokens change the calls of the model, and never the text."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.text.draft_tokens import DraftTokens
from rbe_cli.text.generation import GenerationStep, generate
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.recording import RecordedGeneration

MakeSession = Callable[..., Any]


def steps_of(session: Any, prompt: list[int], eos: set[int], **options: Any) -> Any:
    prompts = [np.array(prompt, dtype=np.int64)]
    return list(generate(session, prompts, GenerationOptions(**options), None, eos))


class LoopingSession:
    """Its logits follow from the last token alone, so a greedy text runs in circles."""

    def __init__(self, seed: int, n_positions: int) -> None:
        self.n_positions, self.vocab_size = n_positions, 9
        self._logits = 2 * np.random.default_rng(seed).standard_normal((9, 9), dtype=np.float32)
        self.cache: list[int] = []
        self.calls = 0

    def borrow_rows(self, count: int) -> Any:
        return nullcontext(range(count))

    def length(self, row: int) -> int:
        return len(self.cache)

    def reset(self, row: int) -> None:
        self.cache = []

    def truncate(self, row: int, length: int) -> None:
        assert length <= len(self.cache)
        del self.cache[length:]

    def prefill(self, row: int, tokens: Any) -> Any:
        return self.extend(row, tokens)[-1]

    def decode(self, rows: Any, tokens: Any) -> Any:
        return self.extend(rows[0], tokens)

    def extend(self, row: int, tokens: Any) -> Any:
        self.calls += 1
        self.cache += tokens.tolist()
        assert len(self.cache) <= self.n_positions
        return self._logits[tokens]


@given(
    seed=st.integers(0, 500),
    prompt=st.lists(st.integers(0, 8), min_size=1, max_size=30),
    n_positions=st.integers(30, 60),
    max_tokens=st.integers(1, 80),
    greedy=st.booleans(),
    eos=st.sets(st.integers(0, 8), max_size=2),
    overflow=st.sampled_from(["stop", "shift"]),
)
def test_the_steps_are_the_same(
    seed: int, prompt: list[int], n_positions: int, max_tokens: int, greedy: bool,
    eos: set[int], overflow: Any,
) -> None:  # fmt: skip
    options = {"max_tokens": max_tokens, "greedy": greedy, "seed": seed, "on_overflow": overflow}
    plain = LoopingSession(seed, n_positions)
    drafting = LoopingSession(seed, n_positions)
    expected = steps_of(plain, prompt, eos, lookup=False, **options)
    assert steps_of(drafting, prompt, eos, lookup=True, **options) == expected
    assert drafting.cache == plain.cache
    assert drafting.calls <= plain.calls


def test_a_text_that_repeats_itself_takes_few_calls() -> None:
    session = LoopingSession(0, 1000)
    steps = steps_of(session, [1], set(), greedy=True, max_tokens=200)
    assert len(steps) == 200
    assert session.calls < 60


def test_several_rows_have_no_draft_tokens(make_session: MakeSession) -> None:
    session = make_session(rows=2)
    prompts = [np.array([1, 2, 1, 2, 1, 2])] * 2
    list(generate(session, prompts, GenerationOptions(max_tokens=5), None, ()))
    assert session.extensions == []


def test_rejected_draft_tokens_are_not_counted_as_decoded(make_session: MakeSession) -> None:
    prompt = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3])
    recorded = RecordedGeneration(
        make_session(rows=1), [prompt], GenerationOptions(max_tokens=20, greedy=True), None, ()
    )
    steps: list[GenerationStep] = list(recorded)
    assert recorded.stats.decode_tokens == len(steps) - 1


def test_a_draft_is_what_followed_last_time() -> None:
    drafts = DraftTokens()
    assert drafts.propose([1, 2, 3, 4, 5, 9, 1, 2, 3], 2) == [4, 5]
    assert drafts.propose([1, 2, 3, 4, 5, 9, 1, 2, 3, 7, 1, 2, 3], 2) == [7, 1]


@pytest.mark.parametrize("history", [[], [1], [1, 1], [1, 2, 3], [1, 2, 3, 4]])
def test_without_a_repetition_there_is_no_draft(history: list[int]) -> None:
    assert DraftTokens().propose(history, 5) == []


def test_accepted_tokens_make_more_and_rejected_ones_fewer() -> None:
    drafts, history = DraftTokens(), [1, 2, 3, *range(10, 30), 1, 2, 3]
    first = len(drafts.propose(history, 100))
    drafts.learn(first, first)
    assert len(drafts.propose(history, 100)) > first
    for _ in range(5):
        drafts.learn(7, 0)
    assert len(drafts.propose(history, 100)) == 1
    assert drafts.propose(history, 0) == []
