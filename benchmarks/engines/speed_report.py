"""Report medians and ratios of the rounds, as tables and as JSON."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.engines.contestant import Measurement

OURS = "rbe"
MEGABYTE = 1e6
WIDTH = 130  # characters of the widest table


@dataclass(frozen=True)
class Spread:
    """Hold the median and the extremes of one number over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))

    def format(self, digits: int) -> str:
        middle, low, high = (f"{value:.{digits}f}" for value in (self.median, self.low, self.high))
        return f"{middle} ({low}-{high})"


@dataclass(frozen=True)
class Row:
    """Hold one engine and variant over all rounds.

    Attributes:
        engine, variant: names.
        bits: of a weight, scales not counted.
        cosine: of the logits with the reference's; None if it was not checked.
        rounds: one measurement a round.
    """

    engine: str
    variant: str
    bits: int
    cosine: float | None
    rounds: list[Measurement]

    @property
    def name(self) -> str:
        return f"{self.engine} {self.variant}"

    def spread(self, value: Callable[[Measurement], float]) -> Spread:
        return Spread.of([value(measurement) for measurement in self.rounds])


@dataclass(frozen=True)
class Ratio:
    """Say how many times as fast `rbe` is as a peer of the same width, round by round.

    Attributes:
        ours, peer: names of the rows.
        prefill, decode: of tokens a second.
        one_token: of the peer's seconds to ours.
    """

    ours: str
    peer: str
    prefill: Spread
    decode: Spread
    one_token: Spread


def prefill(measurement: Measurement) -> float:
    return measurement.prefill_tokens_per_second


def decode(measurement: Measurement) -> float:
    return measurement.decode_tokens_per_second


def one_token_rate(measurement: Measurement) -> float:
    """Return how many whole processes of one token run in a second."""
    return 1 / measurement.one_token_seconds


def ratios(rows: Sequence[Row]) -> list[Ratio]:
    """Return the ratios of each row of ours to each of a peer's with as many bits."""
    return [
        Ratio(
            ours.name,
            peer.name,
            prefill=_ratio(ours, peer, prefill),
            decode=_ratio(ours, peer, decode),
            one_token=_ratio(ours, peer, one_token_rate),
        )
        for ours in rows
        for peer in rows
        if ours.engine == OURS and peer.engine != OURS and ours.bits == peer.bits
    ]


def _ratio(ours: Row, peer: Row, value: Callable[[Measurement], float]) -> Spread:
    pairs = zip(ours.rounds, peer.rounds, strict=True)
    return Spread.of([value(mine) / value(theirs) for mine, theirs in pairs])


def show(rows: Sequence[Row], console: Console) -> None:
    """Print both tables: medians over the rounds, least and largest in brackets."""
    console.print(
        _table(
            ("engine", "bits", "prefill tok/s", "decode tok/s", "load s", "peak MB", "one token s"),
            map(_cells, rows),
        )
    )
    found = ratios(rows)
    if found:
        heading = ("times as fast", "prefill", "decode", "one token")
        console.print(_table(heading, map(_ratio_cells, found)))
    for line in settings(rows):
        console.print(line, soft_wrap=True)


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        str(row.bits),
        row.spread(prefill).format(0),
        row.spread(decode).format(0),
        row.spread(lambda one: one.load_seconds).format(2),
        row.spread(lambda one: one.peak_rss_bytes / MEGABYTE).format(0),
        row.spread(lambda one: one.one_token_seconds).format(2),
    ]


def _ratio_cells(ratio: Ratio) -> list[str]:
    spreads = (ratio.prefill, ratio.decode, ratio.one_token)
    return [f"{ratio.ours} / {ratio.peer}", *(spread.format(2) for spread in spreads)]


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(heading):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    return table


def settings(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each engine with several settings: which was fastest, how often."""
    lines = []
    for row in rows:
        for phase in ("prefill", "decode"):
            chosen = [getattr(one, f"{phase}_setting") for one in row.rounds]
            if set(chosen) != {"default"}:
                counts = {name: chosen.count(name) for name in sorted(set(chosen))}
                said = ", ".join(f"{name} in {count}" for name, count in counts.items())
                lines.append(f"{row.name}, fastest {phase}: {said} of {len(chosen)} rounds")
    return lines


def write_json(path: Path, conditions: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write all rounds of all rows, and the ratios."""
    content = conditions | {
        "rows": [asdict(row) for row in rows],
        "ratios": [asdict(ratio) for ratio in ratios(rows)],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
