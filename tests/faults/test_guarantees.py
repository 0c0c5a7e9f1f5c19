"""A few faults of each scenario, and that the checks notice what they look for.

`make faults` runs all of them.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from deadlines import SECONDS
from faults.fault_bench import Ended, FaultBench, State
from faults.fault_scenarios import Scenario
from faults.faulty_system import KILL, SHORT, Call
from faults.guarantees import of_files, of_process
from faults.power_cuts import check_power_cuts

TESTS = Path(__file__).parents[1]
FOLDER = Path("/place")
OLD, NEW = {"": b"old"}, {"": b"new"}


def test_a_few_faults_of_each_scenario() -> None:
    command = [sys.executable, "-m", "faults", "--most", "3"]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 broken guarantees\n" in done.stdout
    runs = re.search(r"^(\d+) runs: ", done.stdout, re.MULTILINE)
    assert runs is not None
    assert int(runs[1]) == 30


def calls(*steps: str) -> list[Call]:
    """Each step is a call's kind, and names in the folder."""
    found = []
    for step in steps:
        kind, *names = step.split()
        paths = tuple(str(FOLDER / name) if name != "." else str(FOLDER) for name in names)
        data = b"new" if kind == "write" else b""
        found.append(Call(kind, paths, data, flags="x" if kind == "open" else ""))
    return found


WRITTEN = ("open part", "write part", "fsync part")


@pytest.mark.parametrize(
    ("steps", "problems"),
    [
        ((*WRITTEN, "replace part out", "fsync ."), []),
        (("open part", "write part", "replace part out", "fsync ."), ["after call 2", "the new"]),
        ((*WRITTEN, "replace part out"), ["the new output is not safe"]),
        (("open out", "write out", "fsync out", "fsync ."), ["after call 0", "after call 1"]),
        ((*WRITTEN, "unlink out", "rename part out", "fsync ."), ["after call 3"]),
    ],
    ids=["right", "file not synced", "folder not synced", "written in place", "deleted before"],
)
def test_power_cuts(steps: Sequence[str], problems: list[str]) -> None:
    found = list(check_power_cuts(calls(*steps), FOLDER, "out", OLD, NEW))
    for problem in problems:
        assert any(own.startswith(problem) for own in found)
    assert bool(found) == bool(problems)


FOLDER_WRITTEN = ("mkdir part", "open part/a", "write part/a", "fsync part/a", "fsync part")


@pytest.mark.parametrize(
    ("steps", "is_safe"),
    [
        (
            (*FOLDER_WRITTEN, "exchange part out", "rename part old", "fsync .", "unlink old/a"),
            True,
        ),
        ((*FOLDER_WRITTEN, "exchange part out", "unlink part/a", "fsync ."), False),
        ((*FOLDER_WRITTEN[:4], "exchange part out", "fsync ."), False),
        ((*FOLDER_WRITTEN, "rename out old", "rename part out", "fsync ."), False),
    ],
    ids=["right", "deleted too early", "names not synced", "two steps"],
)
def test_power_cuts_of_folders(steps: Sequence[str], is_safe: bool) -> None:
    old, new = {"a": b"old"}, {"a": b"new"}
    found = list(check_power_cuts(calls(*steps), FOLDER, "out", old, new))
    assert (not found) == is_safe


@pytest.mark.parametrize(
    ("code", "said", "fault", "is_right"),
    [
        (1, "rbe: cannot write a.rbe: No space left on device\n", "ENOSPC", True),
        (-9, "", KILL, True),
        (0, "", KILL, False),
        (-7, "", "EIO", False),
        (130, "interrupted\n", "EIO", False),
        (1, "rbe: this is a bug in rbe (OSError)\n", "EIO", False),
        (1, "Traceback\nOSError\n", "EIO", False),
        (1, "rbe: cannot write a.rbe\n", SHORT, False),
    ],
)
def test_how_a_process_may_end(code: int, said: str, fault: str, is_right: bool) -> None:
    ended = Ended(code, said, [])
    assert (not list(of_process(ended, fault, Call("write", ("a.rbe",))))) == is_right


@dataclass
class Left:
    """What a process has left behind, as `FaultBench` tells it."""

    found: State
    beside: list[str]

    def output(self, _: Scenario) -> State:
        return self.found

    def litter(self, _: Scenario) -> list[str]:
        return self.beside


@pytest.mark.parametrize(
    ("found", "beside", "code", "fault", "kind", "is_right"),
    [
        (OLD, [], 1, "EIO", "write", True),
        (NEW, [], 1, "EIO", "fsync", True),
        (NEW, [], 0, SHORT, "write", True),
        (OLD, [".rbe-1.partial"], -9, KILL, "write", True),
        (NEW, [".rbe-1.partial"], 0, "EIO", "unlink", True),
        (OLD, [], 0, "EIO", "write", False),
        ({"": b"ne"}, [], 1, "EIO", "write", False),
        ({}, [], 1, "EIO", "rename", False),
        (OLD, [".rbe-1.partial"], 1, "EIO", "write", False),
        (OLD, ["other"], -9, KILL, "write", False),
    ],
)
def test_what_may_be_left(
    found: State, beside: list[str], code: int, fault: str, kind: str, is_right: bool
) -> None:
    scenario = Scenario("test", "out", lambda folder: 0)
    bench = cast(FaultBench, Left(found, beside))
    ended, call = Ended(code, "", []), Call(kind, ("a.rbe",))
    assert (not list(of_files(bench, scenario, (OLD, NEW), ended, fault, call))) == is_right
