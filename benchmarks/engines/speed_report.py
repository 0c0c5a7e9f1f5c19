"""Report medians and ratios of the rounds, as tables and as JSON."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.engines.comparisons import Ratio, ratios
from benchmarks.engines.speed_rows import Row, decode, prefill

MEGABYTE = 1e6
WIDTH = 150  # characters of the widest table


def show(rows: Sequence[Row], console: Console) -> None:
    """Print both tables: medians over the rounds, least and largest in brackets."""
    console.print(
        _table(
            (
                *("engine", "bits", "KL", "prefill tok/s", "decode tok/s"),
                *("read MB", "load s", "peak MB", "one token s"),
            ),
            map(_cells, rows),
        )
    )
    found = ratios(rows)
    if found:
        heading = ("times as fast", "alike in", "prefill", "decode", "one token")
        console.print(_table(heading, map(_ratio_cells, found)))
    for line in settings(rows):
        console.print(line, soft_wrap=True)


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        str(row.bits),
        "-" if row.kl_divergence is None else f"{row.kl_divergence:.5f}",
        row.spread(prefill).format(0),
        row.spread(decode).format(0),
        f"{row.read_bytes / MEGABYTE:.1f}",
        row.spread(lambda one: one.load_seconds).format(2),
        row.spread(lambda one: one.peak_rss_bytes / MEGABYTE).format(0),
        row.spread(lambda one: one.one_token_seconds).format(2),
    ]


def _ratio_cells(ratio: Ratio) -> list[str]:
    spreads = (ratio.prefill, ratio.decode, ratio.one_token)
    name = f"{ratio.ours} / {ratio.peer}"
    return [name, ", ".join(ratio.likeness), *(spread.format(2) for spread in spreads)]


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
