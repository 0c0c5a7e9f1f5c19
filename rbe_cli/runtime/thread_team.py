"""Run compiled programs (team_programs.py) on threads that wait for them.

The calling thread is the first of the team. The others are started once; after a job they spin
for about a millisecond, as the next token mostly follows sooner, and then sleep. One team serves
the whole process: two models in two Python threads take turns, a forked child starts anew.
"""

import os
import threading

import numpy as np

from rbe_cli.errors import UsageError
from rbe_cli.runtime.addresses import address
from rbe_cli.runtime.cpus import affine_cpus, default_threads
from rbe_cli.runtime.instruction_sets import InstructionSet, chosen
from rbe_cli.runtime.libraries import LEAD, WORK
from rbe_cli.runtime.native import Native, load
from rbe_cli.runtime.team_records import FLAG_BYTES, TEAM

_PATIENCE = 20_000  # pauses of about 50 nanoseconds
_turn = threading.Lock()  # one job at a time in the process


class Team:
    """Run compiled programs together on at most `threads` threads.

    Attributes:
        threads: that run a job unless it asks for fewer.
        instructions: the programs' instruction set.
        flags: address of the barrier of the job that runs.
    """

    def __init__(self, threads: int, instructions: InstructionSet) -> None:
        """Prepare a team; code is loaded and threads are started with the first job."""
        self.threads = threads
        self.instructions = instructions
        self._lines = np.zeros(FLAG_BYTES // 8 * (2 * threads + 1), np.int64)
        first = address(self._lines)
        self.flags = first + FLAG_BYTES
        self._record = np.zeros(1, TEAM)
        self._address = address(self._record)
        self._record["job"] = first
        self._record["flags"] = self.flags
        self._record["done"] = self.flags + FLAG_BYTES * threads
        self._has_job = False
        self._workers: list[tuple[threading.Thread, threading.Event]] = []

    def run(self, program: Native, record: int, threads: int | None = None) -> None:
        """Run a program on the record at an address; return when all threads are done.

        One thread needs no team: then callers do not wait for each other.
        """
        threads = min(threads or self.threads, self.threads)
        if threads == 1:
            program(0, 1, record)
            return
        with _turn:
            self._record["program"], self._record["record"] = program.address, record
            self._has_job = True
            try:
                (lead,) = load([LEAD], self.instructions)
                self._wake(threads - 1)
                lead(self._address, threads)
            finally:
                self._has_job = False

    def _wake(self, workers: int) -> None:
        """Make the first `workers` threads wait for a job."""
        for part in range(len(self._workers) + 1, workers + 1):
            awake = threading.Event()
            thread = threading.Thread(target=self._serve, args=(part, awake), daemon=True)
            self._workers.append((thread, awake))
        for thread, awake in self._workers[:workers]:
            if thread.ident is None:  # new, or a Ctrl-C came before it was started
                thread.start()
            if not awake.is_set():
                awake.set()

    def _serve(self, part: int, awake: threading.Event) -> None:
        """Spin for jobs, then sleep until the next is announced, as a thread of the team."""
        (work,) = load([WORK], self.instructions)
        while True:
            work(part, self._address, _PATIENCE)
            awake.clear()
            if not self._has_job:  # a caller with a job finds the flag cleared, and sets it
                awake.wait()

    def forget_threads(self) -> None:
        """Drop all threads in a forked process, because threads do not survive a fork."""
        self._lines[:] = 0
        self._has_job = False
        self._workers.clear()


_teams: dict[tuple[int, InstructionSet], Team] = {}


def get_team(threads: int | None, instructions: InstructionSet | None = None) -> Team:
    """Return the process's team of a number of threads.

    Args:
        threads: None for the physical cores this process may use. More than the CPUs it may
            use are lowered to those; results do not depend on the number.
        instructions: None for `instruction_sets.chosen`.

    Raises:
        UsageError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"`threads` {threads}: at least one thread is needed")
    key = min(threads or default_threads(), affine_cpus()), instructions or chosen()
    if key not in _teams:
        _teams.setdefault(key, Team(*key))  # at once, as two Python threads may come here
    return _teams[key]


def _after_fork() -> None:
    global _turn
    _turn = threading.Lock()
    for team in _teams.values():
        team.forget_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
