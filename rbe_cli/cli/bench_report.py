"""The rows of a benchmark, printed as they are measured, in each format."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rbe_cli.cli.output import Format, Output, drawable, facts, size
from rbe_cli.cli.terminal_text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.bench.bench_run import BenchResult, Row
    from rbe_cli.bench.machine_info import Machine
    from rbe_cli.bench.models import ModelTiming, RateSpread
    from rbe_cli.bench.operators import LayerTiming


class BenchFormat(StrEnum):
    """Say how results appear on stdout."""

    human = "human"
    json = "json"
    jsonl = "jsonl"
    md = "md"
    csv = "csv"
    quiet = "quiet"

    @property
    def shared(self) -> Format:
        """Return the format of what is no table, such as errors."""
        is_table = self in (BenchFormat.md, BenchFormat.csv)
        return Format.human if is_table else Format(self.value)


@dataclass(frozen=True)
class _Column:
    """Describe a column of a table that is printed row by row, so its width is fixed."""

    name: str
    width: int


_LAYER_COLUMNS = (
    _Column("op", 21),
    _Column("variant", 9),
    _Column("shape", 12),
    *(_Column(name, 9) for name in ("median", "min", "max")),
    _Column("calls", 6),
    _Column("GFLOP/s", 8),
    _Column("GB/s", 7),
    _Column("memory", 10),
)
_MODEL_COLUMNS = (
    _Column("model", 24),
    *(_Column(name, 13) for name in ("prefill tok/s", "decode tok/s")),
    *(_Column(name, 11) for name in ("load", "first token", "peak memory", "read/token")),
)


class Report:
    """Print what a benchmark measures; nothing is lost if it is interrupted."""

    def __init__(self, out: Output, form: BenchFormat, models: int, layers: bool) -> None:
        """Args:
        out: prints.
        form: how.
        models: how many will be timed.
        layers: whether layers will be timed.
        """
        self._out, self._form = out, form
        self._models, self._layers = models, layers
        self._head: tuple[_Column, ...] | None = None  # of the table that is being printed

    def begin(self, machine: "Machine") -> None:
        """Print what stands before the first row."""
        if self._form is BenchFormat.human:
            self._out.result(None, lambda console: console.print(_machine(machine)))
        elif self._form is BenchFormat.csv:
            self._out.write(_csv_line([name for name, _ in self._csv_columns()]))

    def row(self, row: "Row") -> None:
        """Print a row; `end` says how many were left out."""
        from rbe_cli.bench.models import ModelTiming
        from rbe_cli.bench.operators import LayerTiming, LeftOut

        if isinstance(row, LeftOut):
            return
        if self._form is BenchFormat.jsonl:
            self._out.record(row)
        elif self._form is BenchFormat.csv:
            values = asdict(row)
            cells = [_cell(values.get(field), end) for _, (field, end) in self._csv_columns()]
            self._out.write(_csv_line(cells))
        elif isinstance(row, ModelTiming):
            if self._form is BenchFormat.human and self._models == 1:
                self._out.result(None, lambda console: _show_model(console, row))
            else:
                self._table_row(_MODEL_COLUMNS, _model_cells(row))
        elif isinstance(row, LayerTiming):
            self._table_row(_LAYER_COLUMNS, _layer_cells(row))

    def end(self, result: "BenchResult") -> None:
        """Print what stands after the last row, and say what was left out."""
        if self._form in (BenchFormat.json, BenchFormat.jsonl):
            self._out.result(result.record(), lambda _: None)
        for reason, why in (
            ("time", "they would take too long: --max-seconds gives more time"),
            ("memory", "they need more memory than there is"),
        ):
            count = sum(row.reason == reason for row in result.left_out)
            if count:
                self._out.note(f"{count} layers were left out, as {why}")

    def _table_row(self, columns: tuple[_Column, ...], cells: Sequence[str]) -> None:
        if self._form not in (BenchFormat.human, BenchFormat.md):
            return
        line = _md_line if self._form is BenchFormat.md else _human_line
        if self._head is not columns:
            names = [column.name for column in columns]
            if self._head or self._form is BenchFormat.human:  # something stands before it
                self._out.write("\n")
            self._out.write(line(columns, names))
            if self._form is BenchFormat.md:
                self._out.write("|---|" + "---:|" * (len(columns) - 1) + "\n")
            self._head = columns
        self._out.write(line(columns, cells))

    def _csv_columns(self) -> list[tuple[str, tuple[str, str | None]]]:
        """Names of columns, each with the field it shows and, of a spread, which end.

        All rows have the columns of all kinds of rows to come; what a row lacks stays empty.
        """
        from rbe_cli.bench.models import ModelTiming
        from rbe_cli.bench.operators import LayerTiming

        kinds: list[Any] = [ModelTiming] * bool(self._models) + [LayerTiming] * self._layers
        names = [field.name for kind in kinds for field in fields(kind)]
        names.sort(key=lambda name: name != "model")  # what a row is about comes first
        columns: list[tuple[str, tuple[str, str | None]]] = []
        for name in names:
            if name.endswith("_spread"):
                columns += [(f"{name}_{end}", (name, end)) for end in ("min", "max")]
            else:
                columns.append((name, (name, None)))
        return columns


def _human_line(columns: Sequence[_Column], cells: Sequence[str]) -> str:
    first, *others = zip(columns, cells, strict=True)
    texts = [printable(first[1]).ljust(first[0].width)]
    texts += [cell.rjust(column.width) for column, cell in others]
    return " ".join(texts).rstrip() + "\n"


def _md_line(columns: Sequence[_Column], cells: Sequence[str]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |\n"


def _csv_line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _cell(value: Any, end: str | None) -> object:
    """Return a field's value, or one end of it."""
    if isinstance(value, str):  # a name
        return printable(value)
    return value if end is None or value is None else getattr(value, end)


def _machine(machine: "Machine") -> object:
    return facts(
        [
            ("processor", f"{machine.cpu} ({machine.platform})"),
            ("GPU", machine.gpu)
            if machine.gpu
            else ("threads", f"{machine.threads} of {machine.logical_cores} processors"),
            ("memory", size(machine.memory_bytes)),
            (
                "software",
                f"Python {machine.python}, numpy {machine.numpy}, "
                f"numba {machine.numba or 'not installed'}",
            ),
        ]
    )


def _show_model(console: "Console", timing: "ModelTiming") -> None:
    console.print()
    console.print(
        facts(
            [
                ("prefill", _rate(timing.prefill_tokens_per_second, timing.prefill_spread)),
                ("decode", _rate(timing.decode_tokens_per_second, timing.decode_spread)),
                ("load", seconds(timing.load_seconds)),
                ("first token", seconds(timing.time_to_first_token_seconds)),
                ("peak memory", size(timing.peak_rss_bytes)),
                ("read per token", size(timing.bytes_per_token)),
                (
                    "memory speed",
                    f"{timing.read_bytes_per_second / 1e9:.1f} GB/s; decoding reaches "
                    f"{timing.bandwidth_share:.0%} of it",
                ),
                (
                    "measured with",
                    f"a prompt of {timing.prompt_tokens} and {timing.max_tokens} decoded tokens, "
                    f"{timing.depth} before them",
                ),
            ]
        )
    )


def _rate(median: float, spread: "RateSpread") -> str:
    return f"{median:.1f} tokens/s ({spread.min:.1f} to {spread.max:.1f})"


def _model_cells(timing: "ModelTiming") -> tuple[str, ...]:
    return (
        timing.model,
        f"{timing.prefill_tokens_per_second:.1f}",
        f"{timing.decode_tokens_per_second:.1f}",
        seconds(timing.load_seconds),
        seconds(timing.time_to_first_token_seconds),
        size(timing.peak_rss_bytes),
        size(timing.bytes_per_token),
    )


def _layer_cells(timing: "LayerTiming") -> tuple[str, ...]:
    return (
        f"{timing.op}, backward" if timing.backward else timing.op,
        timing.variant,
        timing.shape,
        seconds(timing.median_seconds),
        seconds(timing.min_seconds),
        seconds(timing.max_seconds),
        str(timing.iterations),
        f"{timing.gflops:.2f}",
        f"{timing.gbytes_per_second:.2f}",
        size(timing.peak_memory_bytes),
    )


def seconds(duration: float) -> str:
    """Return seconds with a unit that suits them."""
    if duration >= 1:
        return f"{duration:.2f} s"
    if duration >= 1e-3:
        return f"{1e3 * duration:.2f} ms"
    return f"{1e6 * duration:.2f} {drawable('µs', 'us')}"
