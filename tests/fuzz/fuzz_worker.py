"""A process that makes and reads cases, as fast as it can."""

import gc
import os
import signal
import threading
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from fuzz.draws import Draws
from fuzz.fuzz_tally import Failure, KindTally
from fuzz.kinds import FAILED, InputKind, Verdict
from fuzz.promises import (
    MOST_SECONDS,
    CapturedOutput,
    PeakMemory,
    forbid_changes,
    limit_memory,
    memory_bound,
    refuse_warnings,
    traced_peak,
)
from fuzz.registry_of_kinds import KINDS, kind_named
from fuzz.scratch import SCRATCH

_BATCH = 64  # cases between two looks at memory and output
RENEW = 75  # exit code of a worker that wants to be started anew
NOT_READY = 1 << 32  # in the place of a kind, before the first case
_FIRST_CASES = 12  # that are not counted
_SLOW = 0.01  # seconds after which a case is read again, to measure its own CPU time


class WorkerJob(NamedTuple):
    """What a worker does.

    Attributes:
        kinds: names of the kinds.
        first, stride: the seeds are `first`, `first + stride`, and so on.
        counts: how many cases of each kind to make at most; None for as many as time allows.
        seconds: for a kind of share 1 before the next kind's turn.
    """

    kinds: tuple[str, ...]
    first: int
    stride: int
    counts: int | None
    seconds: float


class SliceResult(NamedTuple):
    """What became of some cases of one kind."""

    kind: str
    tally: KindTally
    failures: list[Failure]


def work(job: WorkerJob, state: Any, results: Connection) -> None:
    """Read cases until the supervisor ends the process.

    Args:
        job: what to do.
        state: shared numbers: the place of the kind in work, then how many cases of each kind
            were begun. The supervisor reads from them which case is read now.
        results: takes the results.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
    refuse_warnings()
    runner = CaseRunner(results)
    while True:
        is_done = True
        for place, name in enumerate(job.kinds):
            state[0] = place
            result = _slice(runner, kind_named(name), job, state, place + 1)
            if result.tally.inputs:
                is_done = False
                results.send(result)
        if is_done:
            results.send(None)
            return


def _slice(
    runner: "CaseRunner", kind: InputKind, job: WorkerJob, state: Any, place: int
) -> SliceResult:
    """Read cases of one kind for its share of the time."""
    tally, failures = KindTally(), list[Failure]()
    start = time.perf_counter()
    end = start + job.seconds * kind.share
    while time.perf_counter() < end:
        count = _BATCH if job.counts is None else min(_BATCH, job.counts - state[place])
        if count <= 0:
            break
        seeds = [job.first + job.stride * (state[place] + index) for index in range(count)]
        failures += runner.batch(kind, seeds, tally, state, place)
    tally.seconds = time.perf_counter() - start
    return SliceResult(kind.name, tally, failures)


class CaseRunner:
    """Reads cases, and looks for broken promises in batches."""

    def __init__(self, results: Connection) -> None:
        """Take the process over: its output, its memory, and what it may do."""
        self._results = results
        for kind in KINDS.values():  # what is imported and made once
            for seed in range(_FIRST_CASES):
                kind.verdict(kind.case(Draws(seed)))
        self._output = CapturedOutput()
        self._memory = PeakMemory()
        self._batches = 0
        _ = SCRATCH.path
        limit_memory()
        forbid_changes()
        gc.collect()
        gc.freeze()

    def batch(
        self, kind: InputKind, seeds: list[int], tally: KindTally, state: Any, place: int
    ) -> list[Failure]:
        """Read the cases of some seeds, and add to the tally.

        Returns:
            What is only noticed after the batch: time, memory and output.
        """
        failures = []
        clock, verdicts = time.perf_counter, tally.verdicts
        self._memory.restart()
        before = clock()
        for seed in seeds:
            state[place] += 1
            verdict = _verdict(kind, seed)
            if verdict.name == FAILED:  # told at once, as the next case may end the process
                self._tell(Failure(kind.name, seed, verdict.fault))
            else:
                verdicts[verdict.name] += 1
            now = clock()
            if now - before > tally.slowest[0]:
                failures += self._timed(kind, seed, now - before, tally)
                if threading.active_count() > 1:  # one was left behind, and goes on computing
                    self._results.send(SliceResult(kind.name, tally, failures))
                    os._exit(RENEW)
                now = clock()
            before = now
        grown = self._memory.grown()
        tally.peak = max(tally.peak, grown)
        if grown > kind.memory:
            failures += self._sought(kind, seeds, grown)
        if text := self._output.take():
            failures += self._printed(kind, seeds, text)
        self._batches += 1
        if self._batches % _BATCH == 0:
            failures += self._traced(kind, seeds[0])
        tally.verdicts[FAILED] += len(failures)
        return failures

    def _tell(self, failure: Failure) -> None:
        """Send a failure to the supervisor."""
        tally = KindTally(Counter({FAILED: 1}))
        self._results.send(SliceResult(failure.kind, tally, [failure]))

    def _timed(self, kind: InputKind, seed: int, seconds: float, tally: KindTally) -> list[Failure]:
        """Measure a slow case alone, without what other processes took."""
        if seconds > _SLOW:
            case = kind.case(Draws(seed))
            start = time.process_time()
            kind.verdict(case)
            seconds = time.process_time() - start
        tally.slowest = max(tally.slowest, (seconds, seed))
        if seconds > MOST_SECONDS:
            return [Failure(kind.name, seed, f"{_PROMISE} it takes {seconds:.2f} s")]
        return []

    def _sought(self, kind: InputKind, seeds: list[int], in_batch: int) -> list[Failure]:
        """Find the cases of a batch that take too much memory.

        What a case takes only the first time is told of the first case of the batch.
        """
        found, allowed = [], kind.memory
        for seed in seeds:
            case = kind.case(Draws(seed))
            self._memory.restart()
            kind.verdict(case)
            grown, bound = self._memory.grown(), memory_bound(kind, case)
            allowed += bound - kind.memory
            if grown > bound:
                found.append(Failure(kind.name, seed, f"{_PROMISE} it takes {grown} bytes"))
        if in_batch > allowed and not found:
            fault = f"{_PROMISE} it or one of those after it takes {in_batch} bytes, once"
            found.append(Failure(kind.name, seeds[0], fault))
        return found

    def _printed(self, kind: InputKind, seeds: list[int], text: str) -> list[Failure]:
        """Find the case of a batch that prints."""
        for seed in seeds:
            kind.verdict(kind.case(Draws(seed)))
            if own := self._output.take():
                return [Failure(kind.name, seed, f"{_PROMISE} it prints {own[:500]!a}")]
        return [Failure(kind.name, seeds[0], f"{_PROMISE} it or one after it prints {text!a}")]

    def _traced(self, kind: InputKind, seed: int) -> list[Failure]:
        """Trace what one case takes, also of memory that is not touched."""
        case = kind.case(Draws(seed))
        peak = traced_peak(kind, case)
        if peak > memory_bound(kind, case):
            return [Failure(kind.name, seed, f"{_PROMISE} it allocates {peak} bytes")]
        return []


def _verdict(kind: InputKind, seed: int) -> Verdict:
    """Make a case and read it; what fails in making it is a fault of the fuzzer."""
    try:
        case = kind.case(Draws(seed))
    except Exception:
        return Verdict(FAILED, "the case cannot be made: " + traceback.format_exc())
    return kind.verdict(case)


_PROMISE = "promise broken:"


def whole_verdict(kind: InputKind, case: Any) -> Verdict:
    """Return the verdict on a case with its time and memory, for tests and replays."""
    start = time.process_time()
    verdict = kind.verdict(case)
    seconds = time.process_time() - start
    if verdict.name != FAILED and seconds > MOST_SECONDS:
        return Verdict(FAILED, f"{_PROMISE} it takes {seconds:.2f} s")
    peak = traced_peak(kind, case)
    if verdict.name != FAILED and peak > memory_bound(kind, case):
        return Verdict(FAILED, f"{_PROMISE} it allocates {peak} bytes")
    return verdict
