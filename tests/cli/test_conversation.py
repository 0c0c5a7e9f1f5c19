"""`rbe generate --interactive`: one line after the other, whatever happens to one of them."""

import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.engine.session import Session
from rbe_cli.errors import Terminated

Rbe = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[str]"]
TypeIn = Callable[[bytes], None]
PROMPT = "The quick brown"
OPTIONS = ["--seed", 1, "--max-tokens", 5]
TOO_LONG = "word " * 100  # the context holds 64 tokens


@pytest.fixture
def continued(rbe: Rbe, rbe_file: Path) -> Callable[[str], str]:
    """What `generate` writes for one prompt."""

    def call(prompt: str) -> str:
        return rbe("generate", rbe_file, prompt, *OPTIONS, "-q").out

    return call


def test_each_line_is_continued(
    rbe: Rbe, rbe_file: Path, continued: Callable[[str], str], type_in: TypeIn
) -> None:
    expected = continued(PROMPT) + continued("It was")
    type_in(f"\ufeff{PROMPT}\n\nIt was\n".encode())
    done = rbe("generate", rbe_file, "--interactive", *OPTIONS)
    assert (done.code, done.out) == (0, expected)
    assert done.err.startswith("GPT-2 continues what you type. ")


def test_lines_are_utf_8(rbe: Rbe, rbe_file: Path, type_in: TypeIn) -> None:
    type_in(b"\xff\n")
    done = rbe("generate", rbe_file, "--interactive")
    assert (done.code, done.out) == (3, "")
    assert done.err.endswith("rbe: stdin is not UTF-8 text: invalid start byte\n")


@pytest.mark.parametrize("style", [[], ["--format", "json"]])
def test_a_line_that_is_too_long_does_not_end_it(
    rbe: Rbe, rbe_file: Path, type_in: TypeIn, style: list[str]
) -> None:
    lines = [PROMPT, TOO_LONG, "It was"]
    type_in("\n".join(lines).encode())
    done = rbe("generate", rbe_file, "--interactive", *OPTIONS, *style, "-q")
    type_in(f"{PROMPT}\nIt was\n".encode())
    without = rbe("generate", rbe_file, "--interactive", *OPTIONS, *style, "-q")
    assert done.code == without.code == 0
    assert done.out.count(PROMPT) == done.out.count("It was") == 1
    assert TOO_LONG not in done.out
    assert "but the model's context holds 64" in done.err
    assert done.err.count("\n") == 1
    assert without.err == ""


def interrupt_once(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | type[BaseException]
) -> None:
    """Raise an error in the second step of decoding."""
    steps = iter(range(1_000_000))
    decode = Session.decode

    def interrupted(self: Session, *arguments: Any) -> Any:
        if next(steps) == 1:
            raise error
        return decode(self, *arguments)

    monkeypatch.setattr(Session, "decode", interrupted)


def test_ctrl_c_ends_one_text(
    rbe: Rbe,
    rbe_file: Path,
    continued: Callable[[str], str],
    type_in: TypeIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = continued(PROMPT), continued("It was")
    interrupt_once(monkeypatch, KeyboardInterrupt)
    type_in(f"{PROMPT}\nIt was\n".encode())
    done = rbe("generate", rbe_file, "--interactive", *OPTIONS, "-q")
    cut, newline, rest = done.out.partition("\n")
    assert (done.code, done.err, newline) == (0, "", "\n")
    assert first.startswith(cut)
    assert len(cut) > len(PROMPT)
    assert rest == second


def test_a_polite_kill_ends_all(
    rbe: Rbe, rbe_file: Path, type_in: TypeIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_once(monkeypatch, Terminated(signal.SIGTERM))
    type_in(f"{PROMPT}\nIt was\n".encode())
    done = rbe("generate", rbe_file, "--interactive", *OPTIONS)
    assert done.code == 143
    assert "It was" not in done.out


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_line_is_waited_for(
    start: Start, rbe_file: Path, kind: signal.Signals
) -> None:
    process = start("generate", rbe_file, "--interactive", *OPTIONS, stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(f"{PROMPT}\n")
    process.stdin.flush()
    while "seed 1" not in process.stderr.readline():
        assert process.poll() is None
    for _ in range(100):  # the first may still come before the next line is waited for
        process.send_signal(kind)
        with suppress(subprocess.TimeoutExpired):
            assert process.wait(timeout=0.5) == (130 if kind == signal.SIGINT else 143)
            return
    pytest.fail("it goes on")
