"""Progress as people see it: one line on a terminal, few lines in a log."""

import pytest

from rbe_cli.cli.live import duration, live_line, log_lines
from rbe_cli.progress import Stage

STAGES = [Stage("writing", 1), Stage("encoding", 3)]


class Log:
    """Lines that a progress writes, and its clock."""

    def __init__(self, stages: list[Stage]) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.progress = log_lines(self.lines.append, stages, lambda: self.now)

    def steps(self, stage: str, total: int, seconds: float, note: str = "") -> None:
        """Report a whole stage, each step of which takes so long."""
        self.progress(stage, 0, total)
        for done in range(1, total + 1):
            self.now += seconds
            self.progress(stage, done, total, note)


def test_a_quick_stage_is_one_line_in_a_log() -> None:
    log = Log(STAGES)
    log.steps("writing", 10, 0.1)
    log.steps("encoding", 10, 0.1)
    log.steps("encoding", 10, 0.1)
    assert log.lines == ["writing ...", "encoding ..."]


def test_a_slow_stage_has_a_line_in_thirty_seconds() -> None:
    log = Log(STAGES)
    log.steps("writing", 100, 1)
    assert log.lines == [
        "writing ...",
        "writing, 30 of 100: 8% of all, about 6 min left",
        "writing, 60 of 100: 15% of all, about 6 min left",
        "writing, 90 of 100: 22% of all, about 5 min left",
    ]


def test_a_log_has_the_last_note_of_a_stage() -> None:
    log = Log([])
    log.steps("tuning", 4, 0.1, "KL divergence 0.1")
    assert log.lines == ["tuning ...", "tuning, 4 of 4: KL divergence 0.1, 100% of all"]


def test_bytes_are_not_counted_out() -> None:
    log = Log([])
    log.progress("org/name", 0, 10**9)
    log.now += 40
    log.progress("org/name", 5 * 10**8, 10**9)
    assert log.lines == ["org/name ...", "org/name: 50% of all, about 40 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (59.4, "59 s"), (60, "1 min"), (3540, "59 min"), (3590, "1 h 0 min"),
     (7500, "2 h 5 min")],
)  # fmt: skip
def test_times_are_said_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_terminal_has_one_line_for_all_stages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with live_line(STAGES) as progress:
        for stage in ("writing", "encoding"):
            for done in range(3):
                progress(stage, done, 2, "a note")
    shown = capsys.readouterr().err
    last, erased = shown.split("\n")
    assert "encoding 2/2 " in last
    assert "100% of all" in last
    assert "a note" in last
    assert erased.endswith("\x1b[1A\x1b[2K")
