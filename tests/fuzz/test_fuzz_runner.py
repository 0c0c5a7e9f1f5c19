"""The fuzzer itself: it must notice each broken promise, and survive a crash."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from deadlines import run_python
from fuzz.draws import Draws
from fuzz.fuzz_tally import Failure, Failures, KindTally, as_table
from fuzz.fuzz_worker import whole_verdict
from fuzz.kinds import ACCEPTED, FAILED, InputKind, need
from fuzz.registry_of_kinds import kind_named

from rbe_cli.errors import BadFileError, UsageError


class ReaderKind(InputKind):
    """A kind whose reader is a function."""

    name = "reader"
    errors = (BadFileError,)

    def __init__(self, reader):
        self._reader = reader

    def case(self, draws):
        return b"12345678"

    def read(self, case):
        self._reader(case)


def raises(error):
    def reader(case):
        raise error

    return reader


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        (len, ACCEPTED),
        (raises(BadFileError("no")), "BadFileError"),
        (raises(UsageError("no")), FAILED),
        (raises(ValueError("no")), FAILED),
        (raises(SystemExit(1)), FAILED),
        (raises(BadFileError("")), FAILED),
        (raises(BadFileError("a\nb")), FAILED),
        (raises(BadFileError("\x1b[31m")), FAILED),
        (raises(BadFileError("x" * 1001)), FAILED),
        (lambda case: need(False, "broken"), FAILED),
        (lambda case: bytearray(40 << 20), FAILED),
        (lambda case: _compute(0.2), FAILED),
    ],
)
def test_verdicts(monkeypatch, reader, expected):
    monkeypatch.setattr("fuzz.fuzz_worker.MOST_SECONDS", 0.15)
    assert whole_verdict(ReaderKind(reader), b"12345678").name == expected


def _compute(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_failures_of_one_fault_are_kept_three_times():
    failures = Failures()
    kept = [failures.add(Failure("config", seed, f"message of {seed}")) for seed in range(5)]
    assert kept == [True, True, True, False, False]
    assert list(failures.counts.values()) == [5]


def test_a_table_adds_up():
    tally = KindTally()
    tally.verdicts.update({ACCEPTED: 3, "HeaderError": 1200, FAILED: 2})
    lines = as_table({"one": tally, "other": tally}).splitlines()
    assert lines[1].split() == ["one", "1,205", "1,200", "3", "0.0", "0.0", "2"]
    assert lines[3].split()[1:4] == ["2,410", "2,400", "6"]


def fuzzed(tmp_path, *arguments):
    """The exit code, the output and the figures of a run of one worker."""
    path = tmp_path / "figures.json"
    code = "import runpy; runpy.run_module('fuzz', run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = "--workers", 1, "--first", 6, "--json", path
    done = run_python(code, *arguments, *command, env=environment)
    assert path.exists(), done.stderr
    return done.returncode, done.stdout, json.loads(path.read_text())


def test_a_run_counts_its_cases(tmp_path):
    code, output, figures = fuzzed(tmp_path, "config", "sentencepiece", "--count", 40)
    assert code == 0, output
    assert [own["inputs"] for own in figures["kinds"].values()] == [40, 40]
    assert figures["faults"] == {}


def test_a_run_notices_each_broken_promise(tmp_path):
    code, output, figures = fuzzed(tmp_path, "broken", "--count", 100)
    assert code == 1
    expected = {
        "print": "it prints 'a reader prints",
        "write": "BrokenPromiseError: a reader writes to",
        "start": "BrokenPromiseError: a reader does os.posix_spawn",
        "warn": "UserWarning: a reader warns",
        "memory": "it takes 10",
        "untouched": "MemoryError",
        "raise": "IndexError: a reader fails",
        "crash": f"the process ends with {-signal.SIGSEGV}",
    }
    found = {kind_named("broken").case(Draws(own["seed"])): own for own in figures["failures"]}
    assert found.keys() == expected.keys()
    for promise, text in expected.items():
        assert text in found[promise]["fault"]
        assert f"broken --seed {found[promise]['seed']}: " in output
