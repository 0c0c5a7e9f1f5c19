"""Turns, measured on a clock that only the timed calls move."""

from collections.abc import Callable
from itertools import groupby

import pytest

from rbe_cli.bench.timing import time_in_turn


class Clock:
    """Seconds since the test began; each call of `work` takes some and is remembered."""

    def __init__(self) -> None:
        self.now = 0.0
        self.names: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds
            self.names.append(name)

        return call

    @property
    def turns(self) -> list[tuple[str, int]]:
        return [(name, len(list(calls))) for name, calls in groupby(self.names)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("rbe_cli.bench.timing.perf_counter", clock)
    return clock


def test_fast_calls_share_turns_and_fill_half_a_second(clock: Clock) -> None:
    seconds = time_in_turn({"a": clock.work("a", 1 / 32), "b": clock.work("b", 1 / 64)})
    # Turns of a tenth of a second: 4 / 32 and 7 / 64.
    assert clock.turns[:4] == [("a", 4), ("b", 7), ("a", 4), ("b", 7)]
    assert seconds["a"] == [1 / 32] * 16
    assert seconds["b"] == [1 / 64] * 35


def test_calls_longer_than_a_turn_alternate(clock: Clock) -> None:
    time_in_turn({"a": clock.work("a", 0.25), "b": clock.work("b", 0.25)})
    assert clock.names == ["a", "b"] * 3


def test_a_call_of_two_seconds_is_made_once(clock: Clock) -> None:
    seconds = time_in_turn({"slow": clock.work("slow", 2.0), "fast": clock.work("fast", 0.5)})
    assert {name: len(times) for name, times in seconds.items()} == {"slow": 1, "fast": 3}


@pytest.mark.parametrize("duration", [1e-6, 0.25, 8.0])
def test_repeat_is_exact(clock: Clock, duration: float) -> None:
    seconds = time_in_turn({"a": clock.work("a", duration), "b": clock.work("b", 1e-3)}, repeat=5)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 5, "b": 5}


def test_no_turn_begins_after_the_time_that_is_given(clock: Clock) -> None:
    calls = {"a": clock.work("a", 1 / 16), "b": clock.work("b", 3.0)}
    seconds = time_in_turn(calls, most_seconds=0.25)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 1}
    assert len(time_in_turn({"a": clock.work("a", 0.1)}, most_seconds=-1.0)["a"]) == 1


def test_who_is_interrupted_keeps_what_was_measured(clock: Clock) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    found: dict[str, list[float]] = {}
    with pytest.raises(KeyboardInterrupt):
        time_in_turn({"a": clock.work("a", 0.25), "b": interrupted}, 3, found=found)
    assert found == {"a": [0.25], "b": []}
