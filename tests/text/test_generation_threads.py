"""Generations that share a session: in several threads, in turns in one, and left half-way."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from deadlines import run_together
from small_models import as_panels, random_tensors, small_config

from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.session import Session
from rbe_cli.runtime.thread_team import get_team
from rbe_cli.text.generation import GenerationStep, generate
from rbe_cli.text.generation_options import GenerationOptions
from rbe_cli.text.recording import RecordedGeneration

Start = Callable[[], Session]
CASES: list[tuple[list[list[int]], dict[str, Any]]] = [
    ([[1, 2, 3]], {"greedy": True}),  # with draft tokens
    ([[7] * 20], {"seed": 1, "logprobs": 3}),
    ([[4], [5, 6], [5, 6]], {"seed": 2}),
    ([[8, 9]], {"seed": 3, "max_tokens": 110, "on_overflow": "shift"}),
]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def start(request: pytest.FixtureRequest) -> Start:
    """A function that starts a session of so many threads over one model."""
    config = small_config()
    panels = as_panels(random_tensors(config), 7)[0]  # prompts are rounded to 8 bits
    return partial(Session, LoadedModel(config, panels), team=get_team(request.param))


def steps_of(session: Session, case: int) -> Iterator[GenerationStep]:
    prompts, options = CASES[case]
    chosen = GenerationOptions(**{"max_tokens": 30} | options)
    return generate(session, [np.array(own) for own in prompts], chosen, None, ())


@pytest.fixture(scope="module")
def expected(start: Start) -> list[list[GenerationStep]]:
    """Steps of each case, in a session and a thread of its own."""
    return [list(steps_of(start(), case)) for case in range(len(CASES))]


def test_threads_that_share_a_session_get_their_own_texts(
    start: Start, expected: list[list[GenerationStep]]
) -> None:
    session, wrong = start(), []

    def use(case: int) -> None:
        found = [list(steps_of(session, case)) for _ in range(4)]
        wrong.extend(case for steps in found if steps != expected[case])

    run_together([partial(use, case) for case in range(len(CASES))])
    assert wrong == []


def test_threads_with_sessions_over_one_model_get_their_own_texts(
    start: Start, expected: list[list[GenerationStep]]
) -> None:
    wrong = []

    def use(case: int) -> None:
        session = start()
        found = [list(steps_of(session, case)) for _ in range(4)]
        wrong.extend(case for steps in found if steps != expected[case])

    run_together([partial(use, case) for case in range(len(CASES))])
    assert wrong == []


def test_one_thread_may_read_generations_in_turns(
    start: Start, expected: list[list[GenerationStep]]
) -> None:
    session = start()
    streams = [steps_of(session, case) for case in (0, 1, 1)]
    turns = list(zip(*streams, strict=True))
    for number, case in enumerate((0, 1, 1)):
        assert [turn[number] for turn in turns] == expected[case]


def test_a_generation_may_be_read_by_one_thread_after_the_other(
    start: Start, expected: list[list[GenerationStep]]
) -> None:
    steps, found = steps_of(start(), 1), []
    for _ in expected[1]:
        run_together([lambda: found.append(next(steps))])
    assert found == expected[1]


def test_a_stream_that_nobody_reads_holds_up_no_other(
    start: Start, expected: list[list[GenerationStep]]
) -> None:
    session, found = start(), []
    unread = steps_of(session, 3)
    first = next(unread)
    run_together([lambda: found.extend(steps_of(session, 1))])
    assert found == expected[1]
    assert [first, *unread] == expected[3]  # and goes on where it was left


def test_a_generation_that_is_left_half_way_gives_its_rows_back(start: Start) -> None:
    session = start()
    rows = len(session.cache.lengths)
    for _ in range(5):
        steps: Any = steps_of(session, 2)
        next(steps)
        steps.close()
    for _ in range(5):
        for _ in steps_of(session, 2):
            break
    for _ in range(5):
        prompts = [np.array(own) for own in CASES[2][0]]
        recorded = RecordedGeneration(session, prompts, GenerationOptions(), None, ())
        next(iter(recorded))
        del recorded
    list(steps_of(session, 2))
    assert len(session.cache.lengths) == rows + len(CASES[2][0])


def test_a_generation_that_fails_gives_its_rows_back(
    start: Start, expected: list[list[GenerationStep]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = start()

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, "extend", interrupted)
        patch.setattr(Session, "decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(steps_of(session, 0))
    assert list(steps_of(session, 0)) == expected[0]
    assert len(session.cache.lengths) == 2
