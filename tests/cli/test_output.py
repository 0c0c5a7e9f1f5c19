"""How results are printed, whatever they are."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rbe_cli.cli.output import Format, Output, facts, requested_output, size, table
from rbe_cli.errors import UsageError


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
    assert requested_output(["-q"]) == Output(quiet=True)
    assert requested_output(["-q", "--verbose"]) == Output(verbose=True)
    assert requested_output(["run", "--", "-v", "--format=json"]) == Output()


def test_quiet_and_verbose_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--quiet and --verbose exclude each other"):
        Output(quiet=True, verbose=True)


ROWS = [["h.0.attn.c_attn.weight", "300 x 32", "a sentence of more than twenty characters"]]


def drawn(width: int) -> str:
    file = StringIO()
    console = Console(width=width, file=file, highlight=False)
    console.print(table("", ["tensor", "shape", "what it is"], ROWS))
    return re.sub(" +\n", "\n", file.getvalue())


def test_a_table_that_fits_has_a_line_a_row() -> None:
    _, header, rule, row, _ = drawn(100).splitlines()
    assert header.split() == ["tensor", "shape", "what", "it", "is"]
    assert set(rule.strip()) == {"─"}
    assert row == f" {'   '.join(ROWS[0])}"


def test_sentences_in_a_table_are_wrapped_at_words() -> None:
    text = drawn(65)
    assert "───" in text
    assert "a sentence of more" in text
    assert "characters" in text
    assert "…" not in text


@pytest.mark.parametrize("width", [20, 40, 55])
def test_a_table_that_does_not_fit_is_a_block_a_row(width: int) -> None:
    text = drawn(width)
    assert "───" not in text
    assert "…" not in text
    assert text.startswith("\ntensor")
    assert "shape       300 x 32"[: width - 2] in text
    assert max(map(len, text.splitlines())) <= width
    assert "".join(ROWS[0][0]) in re.sub(r"\n +", "", text)


def test_a_message_is_one_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\n\x1b[31mb\r"
    Output().error(UsageError(f"{name} is bad"))
    Output().note(f"{name} is noted")
    Output().error(UsageError("\x1b" * 10_000))
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == r"rbe: a\n\x1b[31mb\r is bad"
    assert second == r"a\n\x1b[31mb\r is noted"
    assert len(third) < 2100


def test_a_terminal_does_not_obey_a_model(
    printed: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "a\x1b]0;b\x07\u009b2J\u3000\u200d\tc\n"
    Output().write_text(text)
    assert printed() == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    Output().write_text(text)
    assert printed() == "a\\x1b]0;b\\x07\\x9b2J\u3000\u200d\tc\n"
