"""Starts workers, watches over each case, and gathers what becomes of them."""

import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil
from fuzz.fuzz_tally import Failure, Failures, KindTally
from fuzz.fuzz_worker import NOT_READY, RENEW, SliceResult, WorkerJob, work
from fuzz.kinds import FAILED

_HANG = 4.0  # seconds of CPU time after which a case counts as one that does not end
_POLL = 0.25  # seconds
_TURNS = 200  # of a kind of share 1: also a short run has several of each kind
_LONGEST_TURN = 0.25  # seconds


class WatchedWorker:
    """A worker process and what is known of it."""

    def __init__(self, job: WorkerJob, done: Sequence[int]) -> None:
        """Start the process; `done` cases of each kind are left out."""
        context = get_context("spawn")
        self.job = job
        self.state: Any = context.RawArray("Q", [NOT_READY, *done])
        self.results, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=work, args=(job, self.state, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self._seen: tuple[tuple[int, ...], float] = (), 0.0

    @property
    def begun(self) -> list[int]:
        """Return how many cases of each kind were begun."""
        return list(self.state[1:])

    @property
    def failure(self) -> Failure:
        """Return the case that is read now as a failure without a reason."""
        place = self.state[0]
        if place == NOT_READY:
            return Failure(self.job.kinds[0], self.job.first, "")
        seed = self.job.first + self.job.stride * (self.state[place + 1] - 1)
        return Failure(self.job.kinds[place], seed, "")

    @property
    def is_ready(self) -> bool:
        """Return whether the process has read its first case, or has ended."""
        return self.state[0] != NOT_READY or self.process.exitcode is not None

    def hangs(self) -> bool:
        """Return whether the process works at the same case since long."""
        now, cpu = tuple(self.state), _cpu_seconds(self.process.pid)
        if now != self._seen[0]:
            self._seen = now, cpu
        return self.is_ready and cpu - self._seen[1] > _HANG

    def kill(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def _cpu_seconds(pid: int | None) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:  # it has ended
        return 0.0
    return float(times.user + times.system)


class FuzzRun:
    """A run of several workers over some kinds."""

    def __init__(
        self, kinds: Sequence[str], first: int, workers: int, count: int | None, seconds: float
    ) -> None:
        """Prepare a run.

        Args:
            kinds: names.
            first: the first seed.
            workers: processes.
            count: cases of each kind that a worker reads at most; None for any number.
            seconds: that the workers read cases, once all of them are ready.
        """
        self.tallies = {name: KindTally() for name in kinds}
        self.failures = Failures()
        turn = min(seconds / _TURNS, _LONGEST_TURN)
        self._seconds = seconds
        self._jobs = [
            WorkerJob(tuple(kinds), first + index, workers, count, turn) for index in range(workers)
        ]

    def run(self, tell: Callable[[Failure], None], save: Callable[[], None]) -> None:
        """Let the workers work.

        Args:
            tell: is called for failures, the first of each fault.
            save: is called each minute.
        """
        workers = [WatchedWorker(job, [0] * len(job.kinds)) for job in self._jobs]
        try:
            while not all(own.is_ready for own in workers):
                self._gather(workers, tell)
            end, next_save = time.monotonic() + self._seconds, time.monotonic() + 60
            while workers and time.monotonic() < end:
                self._gather(workers, tell)
                workers = [own for own in (self._looked_at(one, tell) for one in workers) if own]
                if time.monotonic() > next_save:
                    save()
                    next_save += 60
        finally:
            for worker in workers:
                worker.kill()
                self._drain(worker.results, tell)

    def _gather(self, workers: Sequence[WatchedWorker], tell: Callable[[Failure], None]) -> None:
        for connection in wait([own.results for own in workers], timeout=_POLL):
            if isinstance(connection, Connection):
                self._drain(connection, tell)

    def _drain(self, connection: Connection, tell: Callable[[Failure], None]) -> None:
        """Take all results that are there."""
        try:
            while connection.poll():
                result = connection.recv()
                if result is not None:
                    self._add(result, tell)
        except (EOFError, OSError):  # the worker has ended, perhaps while it sent
            return

    def _add(self, result: SliceResult, tell: Callable[[Failure], None]) -> None:
        self.tallies[result.kind].add(result.tally)
        for failure in result.failures:
            if self.failures.add(failure):
                tell(failure)

    def _looked_at(
        self, worker: WatchedWorker, tell: Callable[[Failure], None]
    ) -> WatchedWorker | None:
        """Return the worker, or one in its place if it has crashed or hangs; None if it is done."""
        code = worker.process.exitcode
        if code == 0:
            self._drain(worker.results, tell)
            return None
        if code is None and not worker.hangs():
            return worker
        fault = (
            f"it does not end within {_HANG} s" if code is None else f"the process ends with {code}"
        )
        worker.kill()
        self._drain(worker.results, tell)
        if code == RENEW:
            return WatchedWorker(worker.job, worker.begun)
        known = worker.failure
        failure = Failure(known.kind, known.seed, fault)
        self.tallies[failure.kind].verdicts[FAILED] += 1
        if self.failures.add(failure):
            tell(failure)
        return WatchedWorker(worker.job, worker.begun)
