"""stdout and stderr that are closed, full, or of another encoding than UTF-8."""

import json
import os
import pty
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., "subprocess.Popen[str]"]


def finish(process: "subprocess.Popen[str]") -> tuple[int, Any, str]:
    out, err = process.communicate()
    return process.returncode, out, err


def test_a_reader_that_goes_away(start: Start, rbe_file: Path) -> None:
    # More than a pipe holds, so that it cannot all be written before the reader is gone.
    process = start("generate", rbe_file, "The", "--batch", 600, "--format", "jsonl", "-q")
    assert process.stdout is not None
    assert process.stdout.read(1) == "{"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version", "-v"], ["generate", "--help"], ["inspect"]], ids=str
)
def test_a_reader_that_is_gone_from_the_start(
    start: Start, rbe_file: Path, arguments: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    files = [rbe_file] if arguments == ["inspect"] else []
    process = start(*arguments, *files, stdout=writing)
    os.close(writing)
    assert finish(process) == (141, None, "")


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["inspect", "--format", "json"], ["generate", "The"]], ids=str
)
def test_a_full_disk_behind_stdout(start: Start, rbe_file: Path, arguments: list[str]) -> None:
    verb, *others = arguments
    with open("/dev/full", "w") as full:
        code, _, err = finish(start(verb, rbe_file, *others, "-q", stdout=full))
    assert code == 1
    assert "stdout cannot be written: No space left on device" in err
    assert err.count("\n") == 1


def test_help_on_a_full_disk(start: Start) -> None:
    with open("/dev/full", "w") as full:
        code, _, err = finish(start("--help", stdout=full))
    assert code == 1
    assert "No space left on device" in err
    assert "Traceback" not in err


def test_stdout_closed(start: Start, rbe_file: Path) -> None:
    code, _, err = finish(start("inspect", rbe_file, before="exec >&-"))
    assert (code, err) == (1, "rbe: stdout is closed\n")


def test_stdin_closed(start: Start, rbe_file: Path) -> None:
    code, _, err = finish(start("run", rbe_file, "-", before="exec <&-"))
    assert (code, err) == (2, "rbe: stdin is closed\n")


def test_stderr_closed_or_full_is_no_reason_to_fail(start: Start, rbe_file: Path) -> None:
    plain = finish(start("generate", rbe_file, "The", "--seed", 1))
    assert "seed 1" in plain[2]
    command = ["generate", rbe_file, "The", "--seed", 1]
    assert finish(start(*command, before="exec 2>&-"))[:2] == plain[:2]
    with open("/dev/full", "w") as full:
        assert finish(start(*command, stderr=full))[:2] == plain[:2]
        assert finish(start("inspect", "none.rbe", "-v", stderr=full))[:2] == (4, "")


def test_a_terminal_shows_one_line_for_all_stages(
    start: Start, checkpoint: Path, tmp_path: Path
) -> None:
    terminal, stderr = pty.openpty()
    command = ["compress", checkpoint, tmp_path / "a.rbe", "--calib-samples", 8]
    code, out, _ = finish(start(*command, "--format", "json", stderr=stderr))
    os.close(stderr)
    parts = []
    with suppress(OSError):  # which ends a terminal that nobody writes to
        while parts[-1:] != [b""]:
            parts.append(os.read(terminal, 1 << 16))
    os.close(terminal)
    shown = b"".join(parts).decode()
    assert code == 0
    assert json.loads(out)["bits_per_weight"] > 0
    # What a short stage reports may never be drawn.
    assert re.search(r"evaluating (\d+)/\1 ", shown)
    assert "100% of all" in shown
    assert "━━" in shown


def test_a_terminal_that_is_not_utf_8(start: Start, rbe_file: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = ["generate", rbe_file, "né", "--greedy", "--max-tokens", 1, "-q"]
    code, out, err = finish(start(*command, env=environment))
    assert (code, out[:5], err) == (0, "n\\xe9", "")
    code, out, err = finish(start(*command, "--format", "json", env=environment))
    assert (code, json.loads(out)["prompt"]) == (0, "né")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_tables_on_a_code_page_without_box_drawing(
    start: Start, rbe_file: Path, encoding: str
) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    code, out, err = finish(
        start("inspect", rbe_file, "--tensors", "--plot", env=environment, encoding=encoding)
    )
    assert (code, err) == (0, "")
    assert re.search("^ ---+$", out, re.MULTILINE)
    assert "####" in out
    assert "\\u" not in out


def test_tables_on_a_code_page_with_box_drawing(start: Start, rbe_file: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "cp437"}
    command = ["inspect", rbe_file, "--tensors", "--plot"]
    code, out, _ = finish(start(*command, env=environment, encoding="cp437"))
    assert code == 0
    assert "───" in out
    assert "████" in out


def test_names_that_are_not_unicode(start: Start, checkpoint: Path, tmp_path: Path) -> None:
    out = os.fsencode(tmp_path) + b"/\xff.rbe"
    command = ["compress", checkpoint, os.fsdecode(out), "--calib-samples", 8, "-q", "--force"]
    for style in ("human", "json"):
        code, printed, err = finish(start(*command, "--format", style))
        assert (code, err) == (0, "")
        assert "\\udcff.rbe" in printed
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff.rbe"]
