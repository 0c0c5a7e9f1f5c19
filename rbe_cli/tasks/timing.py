"""Times several calls against each other."""

import math
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TypeVar

Name = TypeVar("Name")

_TURN_SECONDS = 0.1
_ENOUGH_CALLS = 3
_ENOUGH_SECONDS = 0.5
_MOST_SECONDS = 2.0


def time_in_turn(
    calls: Mapping[Name, Callable[[], object]], repeat: int | None = None
) -> dict[Name, list[float]]:
    """Seconds of every call of each, taken in turns, so that all meet the same disturbances.

    A turn is a tenth of a second, or a single longer call: libraries let their threads spin for
    some hundredths of a second after the work, which would slow whoever comes next.

    Args:
        calls: what to time; warmed up already.
        repeat: how often each. None for at least 3 times and half a second, but no new turn
            after two seconds: a call of two seconds or more is made once.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    limit = math.inf if repeat is None else repeat
    while unfinished := [name for name in calls if not _is_enough(seconds[name], limit)]:
        for name in unfinished:
            _take_turn(calls[name], seconds[name], limit)
    return seconds


def _is_enough(seconds: list[float], limit: float) -> bool:
    if limit < math.inf:
        return len(seconds) >= limit
    spent = sum(seconds)
    return spent >= _MOST_SECONDS or (len(seconds) >= _ENOUGH_CALLS and spent >= _ENOUGH_SECONDS)


def _take_turn(call: Callable[[], object], seconds: list[float], limit: float) -> None:
    turn_end = perf_counter() + _TURN_SECONDS
    end = 0.0
    while end < turn_end and len(seconds) < limit:
        start = perf_counter()
        call()
        end = perf_counter()
        seconds.append(end - start)
