"""Counts of what became of cases, and the failures among them."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fuzz.kinds import ACCEPTED, FAILED

_KEPT = 3  # failures of one fault that are told
_CHANGING = re.compile(r"/\S*/rbe-fuzz-\w+/|0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"|`[^`]*`")


@dataclass(frozen=True)
class Failure:
    """A case that broke a promise.

    Attributes:
        kind: of input.
        seed: that makes the case.
        fault: what was wrong.
    """

    kind: str
    seed: int
    fault: str

    @property
    def signature(self) -> str:
        """Return what failures of the same fault have in common."""
        lines = self.fault.strip().splitlines() or [""]
        places = [line.strip() for line in lines if "rbe_cli" in line and "File " in line]
        last = lines[-1] if "Traceback" in self.fault else lines[0][:120]
        return f"{self.kind}: {_CHANGING.sub('#', last)[:160]} {places[-1] if places else ''}"


@dataclass
class KindTally:
    """What became of the cases of one kind.

    Attributes:
        verdicts: how many had each verdict.
        slowest: seconds of CPU time of the slowest case, and its seed.
        peak: bytes by which memory grew at most in a batch of cases.
        seconds: that all took.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, 0)
    peak: int = 0
    seconds: float = 0.0

    def add(self, other: "KindTally") -> None:
        """Add what became of other cases."""
        self.verdicts.update(other.verdicts)
        self.slowest = max(self.slowest, other.slowest)
        self.peak = max(self.peak, other.peak)
        self.seconds += other.seconds

    @property
    def inputs(self) -> int:
        """Return the number of cases."""
        return self.verdicts.total()

    @property
    def rejected(self) -> int:
        """Return the number of cases that a declared error refused."""
        return self.inputs - self.verdicts[ACCEPTED] - self.verdicts[FAILED]


class Failures:
    """Keeps some failures of each fault, and counts all."""

    def __init__(self) -> None:
        """Begin without any."""
        self.counts: Counter[str] = Counter()
        self.kept: list[Failure] = []

    def add(self, failure: Failure) -> bool:
        """Count a failure; return whether it is kept."""
        signature = failure.signature
        self.counts[signature] += 1
        is_kept = self.counts[signature] <= _KEPT
        if is_kept:
            self.kept.append(failure)
        return is_kept


def as_json(tallies: dict[str, KindTally], failures: Failures, facts: dict[str, Any]) -> Any:
    """Return the figures of a run as an object for JSON."""
    kinds = {
        name: {
            "inputs": own.inputs,
            "accepted": own.verdicts[ACCEPTED],
            "rejected": own.rejected,
            "failed": own.verdicts[FAILED],
            "errors": dict(own.verdicts.most_common()),
            "slowest_ms": round(1e3 * own.slowest[0], 3),
            "slowest_seed": own.slowest[1],
            "peak_mb": round(own.peak / 1e6, 1),
            "seconds": round(own.seconds, 1),
        }
        for name, own in tallies.items()
    }
    found = [
        {"kind": own.kind, "seed": own.seed, "fault": own.fault[-4000:]} for own in failures.kept
    ]
    total = sum(own.inputs for own in tallies.values())
    counts = dict(failures.counts)
    return {**facts, "inputs": total, "kinds": kinds, "faults": counts, "failures": found}


def as_table(tallies: dict[str, KindTally]) -> str:
    """Return the figures of a run as a table in text."""
    heads = ("kind", "inputs", "rejected", "accepted", "slowest ms", "peak MB", "failures")
    rows = [
        (
            name,
            own.inputs,
            own.rejected,
            own.verdicts[ACCEPTED],
            f"{1000.0 * own.slowest[0]:.1f}",
            f"{own.peak / 1000000.0:.1f}",
            own.verdicts[FAILED],
        )
        for name, own in tallies.items()
    ]
    whole = KindTally()
    for own in tallies.values():
        whole.add(own)
    rows.append(
        (
            "total",
            whole.inputs,
            whole.rejected,
            whole.verdicts[ACCEPTED],
            f"{1000.0 * whole.slowest[0]:.1f}",
            f"{whole.peak / 1000000.0:.1f}",
            whole.verdicts[FAILED],
        )
    )
    lines = [
        heads,
        *([f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows),
    ]
    widths = [max(len(str(line[place])) for line in lines) for place in range(len(heads))]
    return "\n".join(
        "  ".join(
            str(cell).ljust(width) if place == 0 else str(cell).rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
