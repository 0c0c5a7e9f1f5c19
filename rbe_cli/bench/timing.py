"""Time several calls against each other."""

import math
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TypeVar

Name = TypeVar("Name")

_TURN_SECONDS = 0.1
_ENOUGH_CALLS = 3
_ENOUGH_SECONDS = 0.5
MOST_SECONDS = 2.0


def time_in_turn(
    calls: Mapping[Name, Callable[[], object]],
    repeat: int | None = None,
    most_seconds: float = MOST_SECONDS,
    found: dict[Name, list[float]] | None = None,
) -> dict[Name, list[float]]:
    """Return the seconds of every call of each, taken in turns, so that all meet the same noise.

    A turn is a tenth of a second, or a single longer call: libraries let their threads spin for
    some hundredths of a second after the work, which would slow the next call.

    Args:
        calls: the calls to time, which are warmed up already.
        repeat: how often to make each call. None for at least 3 times and half a second, but
            no new turn after `most_seconds` of a call: one that takes longer is made once.
        most_seconds: see `repeat`.
        found: takes the seconds as they are measured, for a caller that is interrupted.
    """
    seconds: dict[Name, list[float]] = {} if found is None else found
    seconds.update({name: [] for name in calls})
    limit = math.inf if repeat is None else repeat

    def is_enough(own: list[float]) -> bool:
        if repeat is not None:
            return len(own) >= repeat
        spent = sum(own)
        enough = len(own) >= _ENOUGH_CALLS and spent >= _ENOUGH_SECONDS
        return bool(own) and (enough or spent >= most_seconds)

    while unfinished := [name for name in calls if not is_enough(seconds[name])]:
        for name in unfinished:
            _take_turn(calls[name], seconds[name], limit)
    return seconds


def _take_turn(call: Callable[[], object], seconds: list[float], limit: float) -> None:
    turn_end = perf_counter() + _TURN_SECONDS
    end = 0.0
    while end < turn_end and len(seconds) < limit:
        start = perf_counter()
        call()
        end = perf_counter()
        seconds.append(end - start)
