"""A few faults of each scenario, and that the checks notice what they look for.

`make faults` runs all of them.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from deadlines import SECONDS
from faults.faulty_system import Call
from faults.power_cuts import check_power_cuts

TESTS = Path(__file__).parents[1]
FOLDER = Path("/place")
OLD, NEW = {"": b"old"}, {"": b"new"}


def test_a_few_faults_of_each_scenario() -> None:
    command = [sys.executable, "-m", "faults", "--most", "4"]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 broken guarantees\n" in done.stdout
    runs = re.search(r"^(\d+) runs: ", done.stdout, re.MULTILINE)
    assert runs is not None
    assert int(runs[1]) == 40


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
