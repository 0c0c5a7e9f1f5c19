"""What must hold after any fault (docs/faults.md)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from faults import libc_faults
from faults.fault_bench import Ended, FaultBench, State
from faults.fault_scenarios import Scenario
from faults.faulty_system import KILL, SHORT, Call
from faults.power_cuts import check_power_cuts

_CODES = (0, 1, 3, 4)  # that a command may end with where the system fails
# Calls that remove what is left: if one fails, it may stay.
_TIDYING = {"unlink", "rmdir", "scandir", "listdir", "remove"}
_READING = {"read", "close", "scandir", "listdir", "mmap"}  # calls that change nothing
_INTERRUPTIBLE = {"open", "read", "write", "fsync", "close", "ftruncate"}


@dataclass
class Findings:
    """Count what was run, and collect what was wrong."""

    runs: dict[str, int] = field(default_factory=dict)
    power_cuts: int = 0
    broken: list[str] = field(default_factory=list)


def cases(calls: Iterable[Call]) -> Iterator[tuple[int, str]]:
    """Yield the number of each call with each fault that it may have.

    The process is killed after each call that changes something. A quota that is reached looks
    like a full disk, but for its name: they take turns.
    """
    for number, call in enumerate(calls):
        is_reading = call.kind in _READING or (call.kind == "open" and call.flags == "r")
        yield number, "EIO"
        if not is_reading:
            yield number, KILL
        if not is_reading and call.kind not in _TIDYING:
            yield number, ("ENOSPC", "EDQUOT")[number % 2]
        if call.kind in ("read", "write"):
            yield number, SHORT
        if call.kind in _INTERRUPTIBLE and libc_faults.is_loaded():
            yield number, "EINTR"  # which Python hides from the calls that it makes


def spread(found: Sequence[tuple[int, str]], most: int) -> Sequence[tuple[int, str]]:
    """Return at most so many cases, spread evenly over all."""
    if len(found) <= most:
        return found
    return [found[index * len(found) // most] for index in range(most)]


def check_scenario(bench: FaultBench, scenario: Scenario, findings: Findings, most: int) -> None:
    """Run a scenario with at most `most` of its cases, and add to the findings."""
    old = bench.prepare(scenario)
    whole = bench.run(scenario.command)
    new = bench.output(scenario)
    if whole.code != 0:
        raise RuntimeError(f"{scenario.name} fails without a fault: {whole.said}")
    if scenario.output is not None and scenario.survives_power_cuts and not libc_faults.is_loaded():
        cuts = check_power_cuts(whole.calls, bench.folder, scenario.output, old, new)
        findings.broken += [f"{scenario.name}, power cut: {problem}" for problem in cuts]
        findings.power_cuts += len(whole.calls)
    for number, fault in spread(list(cases(whole.calls)), most):
        findings.runs[fault] = findings.runs.get(fault, 0) + 1
        bench.prepare(scenario)
        ended = bench.run(scenario.command, number, fault)
        call = whole.calls[number]
        found = [
            *of_process(ended, fault, call),
            *of_files(bench, scenario, (old, new), ended, fault, call),
        ]
        place = f"{scenario.name}, call {number} ({call.kind} {' '.join(call.paths)}), {fault}"
        findings.broken += [f"{place}: {problem}" for problem in found]


def of_process(ended: Ended, fault: str, call: Call) -> Iterator[str]:
    """Yield what is wrong with how a process ended.

    Half a read or write is continued, and an interrupted call is repeated, except a `close`.
    """
    is_harmless = fault == SHORT or (fault == "EINTR" and call.kind != "close")
    if fault == KILL:
        if ended.code != -9:
            yield f"it was not killed, but ended with {ended.code}: {ended.said}"
        return
    if ended.code not in _CODES or (is_harmless and ended.code != 0):
        yield f"it ended with {ended.code}: {ended.said}"
    if "bug in rbe" in ended.said or "Traceback" in ended.said or ended.said.count("\n") > 1:
        yield f"it said {ended.said!r}"


def of_files(
    bench: FaultBench,
    scenario: Scenario,
    outputs: tuple[State, State],
    ended: Ended,
    fault: str,
    call: Call,
) -> Iterator[str]:
    """Yield what is wrong with what a process left behind, and with going on from there."""
    old, new = outputs
    found = bench.output(scenario)
    if found not in (old, new) or (ended.code == 0 and found != new):
        yield f"the output is neither the old nor the new one: {sorted(found)}"
    litter = bench.litter(scenario)
    if fault == KILL:  # nobody is there to remove it
        litter = [own for own in litter if not own.endswith((".partial", ".old"))]
    if litter and call.kind not in _TIDYING:
        yield f"it leaves {litter}"
    if scenario.again is not None and found != new:
        again = bench.run(scenario.again)
        if again.code != 0 or bench.output(scenario) != new:
            yield f"going on gives another file, with code {again.code}: {again.said}"
