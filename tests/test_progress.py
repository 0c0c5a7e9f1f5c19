"""What remains of a task, from what its stages report."""

from collections.abc import Iterator

import pytest

from rbe_cli.progress import Outlook, Stage

STAGES = [Stage("write", 10), Stage("encode", 20, passes=2), Stage("measure", 50)]


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def shares(outlook: Outlook, *reports: tuple[str, int, int]) -> Iterator[float | None]:
    for report in reports:
        outlook.report(*report)
        yield outlook.share


def test_the_share_counts_all_stages_and_passes() -> None:
    reports = [("write", 0, 4), ("write", 2, 4), ("write", 4, 4), ("encode", 0, 2)]
    reports += [("encode", 1, 2), ("encode", 2, 2), ("encode", 0, 2), ("encode", 2, 2)]
    reports += [("measure", 0, 1), ("measure", 1, 1)]
    expected = [0, 0.05, 0.1, 0.1, 0.2, 0.3, 0.3, 0.5, 0.5, 1]
    assert list(shares(Outlook(STAGES), *reports)) == pytest.approx(expected)


def test_a_pass_that_is_not_needed_is_taken_off() -> None:
    reports = [("write", 0, 1), ("write", 1, 1), ("encode", 0, 1), ("encode", 1, 1)]
    reports += [("measure", 0, 2), ("measure", 1, 2)]
    *_, before, after = shares(Outlook(STAGES), *reports)
    assert before == pytest.approx(30 / 80)
    assert after == pytest.approx(55 / 80)


def test_a_pass_more_than_was_expected_never_takes_the_share_back() -> None:
    passes = [("encode", done, 4) for _ in range(6) for done in range(5)]
    found = list(shares(Outlook(STAGES), ("write", 0, 1), ("write", 1, 1), *passes))
    assert found == sorted(found)
    assert found[-1] < 1


def test_stages_that_alternate_are_not_over_too_early() -> None:
    search = [Stage("encode", 2, passes=4), Stage("measure", 1, passes=2)]
    rounds = [(name, done, 1) for name in ("encode", "measure") for done in (0, 1)]
    found = list(shares(Outlook(search), *rounds, *rounds))
    assert found[3] == pytest.approx(3 / 10)
    assert found[-1] == pytest.approx(1)


def test_the_time_left_follows_from_the_time_taken() -> None:
    clock = Clock()
    outlook = Outlook(STAGES, clock)
    outlook.report("write", 0, 2)
    assert outlook.seconds_left is None
    clock.now += 5
    outlook.report("write", 1, 2)
    assert outlook.seconds_left == pytest.approx(95)
    clock.now += 15
    outlook.report("write", 2, 2)
    assert outlook.seconds_left == pytest.approx(180)


def test_what_was_not_declared_counts_neither_as_work_nor_as_time() -> None:
    clock = Clock()
    outlook = Outlook(STAGES, clock)
    outlook.report("compile", 0, 3)
    clock.now += 1000
    outlook.report("compile", 3, 3)
    assert (outlook.share, outlook.seconds_left) == (None, None)
    outlook.report("write", 0, 1)
    clock.now += 10
    outlook.report("write", 1, 1)
    outlook.report("compile", 0, 1)
    clock.now += 500
    outlook.report("compile", 1, 1)
    assert outlook.share == pytest.approx(0.1)
    assert outlook.seconds_left == pytest.approx(90)


def test_without_declared_stages_the_latest_is_the_whole() -> None:
    outlook = Outlook()
    reports = [("load", 0, 2), ("load", 1, 2), ("load", 2, 2), ("time", 0, 4), ("time", 3, 4)]
    assert list(shares(outlook, *reports)) == [0, 0.5, 1, 0, 0.75]


def test_a_stage_of_nothing() -> None:
    assert list(shares(Outlook(), ("load", 0, 0))) == [0]


def test_at_the_end_nothing_is_left() -> None:
    clock = Clock()
    outlook = Outlook(clock=clock)
    outlook.report("load", 0, 1)
    clock.now += 9
    outlook.report("load", 1, 1)
    assert (outlook.share, outlook.seconds_left) == (1, None)
