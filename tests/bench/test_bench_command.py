import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.bench import timing
from rbe_cli.bench.operator_names import Op, Variant
from rbe_cli.bench.operators import LayerOptions, LeftOut
from rbe_cli.cli.app import run
from rbe_cli.cli.output import Output

RESULT_FIELDS = [
    "op",
    "variant",
    "shape",
    "median_seconds",
    "min_seconds",
    "max_seconds",
    "iterations",
    "gflops",
    "gbytes_per_second",
    "backward",
    "peak_memory_bytes",
]
QUICK = ["bench", "--repeat", "1", "--threads", "1"]


def test_json_holds_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    shapes = ["--shape", "1x2x8", "--shape", "2x1x6"]
    assert run([*QUICK, *shapes, "--backend", "cpu", "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record.keys() == {"machine", "results"}
    assert [list(timing) for timing in record["results"]] == [RESULT_FIELDS] * 40
    assert {timing["shape"] for timing in record["results"]} == {"1x2x8", "2x1x6"}


def test_one_op_in_one_variant(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--op", "attention", "--variant", "reference", "--format", "jsonl"]
    assert run([*QUICK, "--shape", "1x2x8", *chosen]) == 0
    row, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert summary["results"] == [row]
    assert (row["op"], row["variant"]) == ("attention", "reference")


def test_backward_passes(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--backward", "--op", "block", "--max-memory", "1MB", "--format", "json"]
    assert run([*QUICK, "--shape", "1x2x8", *chosen]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [timing["variant"] for timing in results] == ["fused", "standard", "mixed", "reference"]
    assert all(timing["backward"] for timing in results)


def test_people_see_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*QUICK, "--shape", "1x2x8", "--op", "linear", "--variant", "all"]) == 0
    captured = capsys.readouterr()
    for text in ("GFLOP/s", "linear", "fused", "reference", "1x2x8"):
        assert text in captured.out
    assert "timing 1x2x8 ..." in captured.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--shape", "8x0x2"], "--shape '8x0x2'"),
        (["--shape", "8x256"], "--shape '8x256'"),
        (["--shape", "1x2x8", "--shape", "abc"], "--shape 'abc'"),
        (["--shape", "99999x99999x99999"], "--shape 99999x99999x99999 needs about"),
        (["--op", "softmax"], "--op"),
        (["--variant", "slow"], "--variant"),
        (["--max-memory", "much"], "'--max-memory': 'much' is not a size"),
        (["--backend", "tpu"], "--backend"),
        (["--repeat", "0"], "--repeat"),
        (["--max-seconds", "0"], "--max-seconds"),
        (["--format", "xml"], "--format"),
        (["--prompt-tokens", "5"], "--prompt-tokens belongs to --model"),
        (["--max-tokens", "5"], "--max-tokens belongs to --model"),
        (["--depth", "0"], "--depth belongs to --model"),
    ],
)
def test_bad_usage_names_the_flag(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert named in captured.err
    assert captured.out == ""


def test_a_missing_model_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--model", "no-such-file.rbe"]) == 4
    assert "no-such-file.rbe does not exist" in capsys.readouterr().err


# Tables for other programs


def test_markdown_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*QUICK, "--shape", "1x2x8", "--op", "linear", "--format", "md"]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("| op | variant | shape | median |")
    assert {line.count("|") for line in (head, rule, *rows)} == {11}
    assert [row.split(" | ")[1] for row in rows] == ["fused", "standard", "mixed", "reference"]


def test_csv_has_the_fields_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*QUICK, "--shape", "1x2x8", "--op", "linear", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [list(row) for row in rows] == [RESULT_FIELDS] * 4
    assert all(float(row["median_seconds"]) > 0 for row in rows)
    assert {row["shape"] for row in rows} == {"1x2x8"}


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*QUICK, "--shape", "1x2x8", "--op", "linear", "--format", "quiet", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


# Rows as they are done


def interrupting(calls: int) -> Any:
    """Ctrl-C at the start of the timing of so many ops."""

    def time_in_turn(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise KeyboardInterrupt
        return timing.time_in_turn(*arguments, **options)

    return time_in_turn


@pytest.mark.parametrize("style", ["human", "json", "jsonl", "md", "csv"])
def test_ctrl_c_keeps_what_was_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    monkeypatch.setattr("rbe_cli.bench.operators.time_in_turn", interrupting(2))
    chosen = ["--variant", "fused", "--format", style]
    assert run([*QUICK, "--shape", "1x2x8", *chosen]) == 130
    captured = capsys.readouterr()
    assert "interrupted" in captured.err
    if style in ("json", "jsonl"):
        record = json.loads(captured.out if style == "json" else captured.out.splitlines()[-1])
        assert [row["op"] for row in record["results"]] == ["layernorm", "linear"]
    else:
        lines = [line.strip("| ") for line in captured.out.splitlines()]
        assert [line[:6] for line in lines if line.startswith(("layern", "linear", "feedf"))] == [
            "layern",
            "linear",
        ]


def test_ctrl_c_before_the_first_row_is_an_empty_record(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rbe_cli.bench.operators.time_in_turn", interrupting(0))
    assert run([*QUICK, "--shape", "1x2x8", "--format", "json"]) == 130
    assert json.loads(capsys.readouterr().out)["results"] == []


def test_rows_are_printed_as_they_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(Output, "write", lambda self, text: events.append("row"))
    real = timing.time_in_turn
    monkeypatch.setattr(
        "rbe_cli.bench.operators.time_in_turn",
        lambda *arguments: events.append("timed") or real(*arguments),
    )
    assert run([*QUICK, "--shape", "1x2x8", "--variant", "fused", "--format", "md", "-q"]) == 0
    assert events == ["timed", "row", "row", "row"] + ["timed", "row"] * 4  # a head and a rule


# How long it takes


@pytest.mark.parametrize(
    ("arguments", "seconds", "shapes"),
    [
        ([], 50, 4),
        (["--max-seconds", "7"], 7, 4),
        (["--op", "linear"], 50, 4),
        (["--repeat", "2"], None, 4),
        (["--shape", "1x2x8"], None, 1),
        (["--shape", "1x2x8", "--max-seconds", "7"], 7, 1),
    ],
)
def test_the_default_takes_less_than_a_minute(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], seconds: int | None, shapes: int
) -> None:
    given: list[LayerOptions] = []

    def time_layers(options: LayerOptions, *_: Any) -> Any:
        given.append(options)
        return iter([LeftOut(Op.block, Variant.fused, "1x2x8", "time")])

    monkeypatch.setattr("rbe_cli.bench.bench_run.time_layers", time_layers)
    assert run(["bench", *arguments, "--format", "json"]) == 0
    (options,) = given
    assert options.seconds == seconds
    assert len(options.shapes) == shapes


def test_what_is_left_out_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [LeftOut(Op.block, Variant.fused, "1x2x8", why) for why in ("time", "time", "memory")]
    monkeypatch.setattr("rbe_cli.bench.bench_run.time_layers", lambda *_: iter(rows))
    assert run(["bench", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert "2 layers were left out, as they would take too long: --max-seconds" in captured.err
    assert "1 layers were left out, as they need more memory" in captured.err
    assert [row["reason"] for row in json.loads(captured.out)["left_out"]] == [
        *("time", "time", "memory")
    ]


# Pictures


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
def test_a_picture_of_the_result(tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / name
    shapes = ["--shape", "1x2x8", "--shape", "2x1x6", "--op", "linear", "-q"]
    assert run([*QUICK, *shapes, "--plot", str(path)]) == 0
    content = path.read_bytes()
    assert content.startswith(start)
    assert len(content) > 2000
    assert run([*QUICK, *shapes, "--plot", str(path)]) == 1  # it exists
    assert run([*QUICK, *shapes, "--plot", str(path), "--force"]) == 0


def test_a_picture_that_cannot_be_drawn_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["bench", "--plot", str(tmp_path / "a.jpg")]) == 2
    assert "the name has to end with .png or .svg" in capsys.readouterr().err
    assert run(["bench", "--plot", str(tmp_path / "no" / "a.png")]) == 4
    assert "folder" in capsys.readouterr().err
    monkeypatch.setattr("rbe_cli.cli.charts.find_spec", lambda name: None)
    assert run(["bench", "--plot", str(tmp_path / "a.png")]) == 2
    captured = capsys.readouterr()
    assert "--plot FILE needs matplotlib: pip install 'rbe-cli[plot]'" in captured.err
    assert captured.out == ""
