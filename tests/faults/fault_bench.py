"""Run scenarios in forked processes, with a fault or without, and show what they leave behind."""

import json
import os
import pickle
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import FileIO, StringIO
from pathlib import Path

from faults import libc_faults
from faults.fault_scenarios import Scenario, make_old, make_sources
from faults.faulty_system import KILL, Call, FaultySystem

State = dict[str, bytes]  # name in the output folder, or "" for a file -> content
_SOURCES = ("model", "model.rbe", "other.rbe")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; negative for a signal.
        said: what it wrote to stderr.
        calls: those that it made, the one that failed included.
    """

    code: int
    said: str
    calls: list[Call]


class FaultBench:
    """Runs scenarios in a folder, which is made anew for each."""

    def __init__(self, home: Path) -> None:
        """Make the sources, and so load everything that commands need."""
        self._home = home
        self.folder = home / "run"
        make_sources(self.folder)
        shutil.copytree(self.folder, home / "sources")

    def prepare(self, scenario: Scenario) -> State:
        """Make the folder as it is before a scenario; return its output."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._home / "sources", self.folder)
        make_old(scenario, self.folder)
        if scenario.unfinished:
            shutil.copytree(self._unfinished(scenario), self.folder / f"{scenario.output}.work")
        return self.output(scenario)

    def output(self, scenario: Scenario) -> State:
        """Return what lies at a scenario's output."""
        if scenario.output is None:
            return {}
        path = self.folder / scenario.output
        if path.is_file():
            return {"": path.read_bytes()}
        return {own.name: own.read_bytes() for own in path.iterdir()} if path.is_dir() else {}

    def litter(self, scenario: Scenario) -> list[str]:
        """Return the names of what is neither a source, nor the output, nor kept work."""
        known = {*_SOURCES, scenario.output, f"{scenario.output}.work"}
        return sorted(own.name for own in self.folder.iterdir() if own.name not in known)

    def run(
        self, command: Callable[[Path], int], number: int | None = None, fault: str = KILL
    ) -> Ended:
        """Run a command in a forked process, whose call `number` fails."""
        report, log = self._home / "report.json", self._home / "calls"
        report.unlink(missing_ok=True)
        with FileIO(log, "w") as calls:
            child = os.fork()
            if child == 0:
                self._run_and_exit(command, number, fault, calls)
        _, status = os.waitpid(child, 0)
        code, said = os.waitstatus_to_exitcode(status), ""
        if code == 0:
            code, said = json.loads(report.read_text())
        return Ended(code, said, list(_pickles(log)))

    def _run_and_exit(
        self, command: Callable[[Path], int], number: int | None, fault: str, log: FileIO
    ) -> None:
        said, libc = StringIO(), None
        try:
            if libc_faults.is_loaded():
                libc = libc_faults.LibcFaults(self.folder, number, fault)
            else:
                FaultySystem(self.folder, number, fault, log).install()
            with redirect_stdout(StringIO()), redirect_stderr(said):
                code = command(self.folder)
        except BaseException:
            traceback.print_exc(file=said)
            code = 70
        if libc is not None:
            for call in libc.end():
                pickle.dump(call, log)
        (self._home / "report.json").write_text(json.dumps([code, said.getvalue()]))
        os._exit(0)

    def _unfinished(self, scenario: Scenario) -> Path:
        """Return the work folder of a run that was killed in the middle of its work."""
        kept = self._home / "unfinished"
        work = self.folder / f"{scenario.output}.work"
        if not kept.exists():
            count = len(self.run(scenario.command).calls)
            (self.folder / str(scenario.output)).unlink()
            for number in range(count // 2, count):
                self.run(scenario.command, number, KILL)
                if len(list(work.glob("*.npz"))) >= 2:
                    break
            work.rename(kept)
        return kept


def _pickles(path: Path) -> Iterator[Call]:
    with open(path, "rb") as file:
        while file.peek(1):
            yield pickle.load(file)
