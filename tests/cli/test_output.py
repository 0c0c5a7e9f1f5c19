"""How results are printed, whatever they are."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from rbe_cli.cli.output import Format, Output, facts, requested_output, size, table


@dataclass
class Measured:
    name: str
    values: tuple[float, ...]
    inner: Any = None


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: capsys.readouterr().out


def test_dataclasses_are_objects_and_what_json_lacks_is_null(printed: Callable[[], str]) -> None:
    value = Measured("é", (0.5, float("nan"), float("inf")), Measured("\udcff", ()))
    expected = {
        "name": "é",
        "values": [0.5, None, None],
        "inner": {"name": "\udcff", "values": [], "inner": None},
    }
    Output(Format.json).result(value, lambda console: None)
    assert json.loads(printed()) == expected
    Output(Format.jsonl).result(value, lambda console: None)
    line = printed()
    assert line.count("\n") == 1
    assert line.isascii()
    assert json.loads(line) == expected


def test_a_long_value_stays_in_one_piece(printed: Callable[[], str]) -> None:
    path = "/folder" * 60
    Output().result(None, lambda console: console.print(facts([("wrote", path), ("a", "b")])))
    assert printed() == f"wrote  {path}\na      b\n"


def test_nothing_is_taken_for_markup(printed: Callable[[], str]) -> None:
    Output().result(None, lambda console: console.print(facts([("[red]x", "[bold]y[/bold]")])))
    Output().result(None, lambda console: console.print(table("", ["n"], [["[red]z[/red]"]])))
    text = printed()
    assert "[red]x  [bold]y[/bold]\n" in text
    assert "[red]z[/red]" in text


def test_quiet_output_has_no_notes(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, expected in ((False, "hello\nstage ...\n"), (True, "")):
        output = Output(quiet=quiet)
        output.note("hello")
        with output.progress() as progress:
            progress("stage", 0, 2)
            progress("stage", 1, 2)
        assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (2_345_678, "2.35 MB"),
        (10**13, "10000.00 GB"),
    ],
)
def test_sizes_have_a_unit(count: int, text: str) -> None:
    assert size(count) == text


def test_the_last_format_that_is_asked_for_holds() -> None:
    assert requested_output(["run", "--format", "json", "--format", "quiet"]).format == "quiet"
    assert requested_output(["--format=json", "--format", "xml"]).format == "json"
    assert requested_output(["run", "--format"]).format == "human"
    assert requested_output([]) == Output()
    assert requested_output(["-q", "--verbose"]) == Output(quiet=True, verbose=True)
