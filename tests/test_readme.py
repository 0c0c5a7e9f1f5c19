"""Every command that README.md shows works as shown."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from deadlines import SECONDS

from rbe_cli.cli.app import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Lines of the README's shell blocks, comments left out, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def make_recipe(target: str) -> list[str]:
    """What `make TARGET` would run."""
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run(
        [make, "--dry-run", "--always-make", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    return done.stdout.splitlines()


def run_all(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for line in lines:
        program, *arguments = shlex.split(line)
        assert Path(program).name == "rbe", line
        assert run(arguments) == 0, (line, capsys.readouterr().err)
        assert capsys.readouterr().out, line


@pytest.fixture
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `compress` calibrate on a sixteenth of the usual text, in a fifth of the time."""
    monkeypatch.setattr("rbe_cli.compression.calibration.default_samples", lambda *_: 8)


def test_it_shows_every_verb() -> None:
    shown = {line.split()[1] for line in commands() if line.startswith("rbe ")}
    assert shown == {"compress", "inspect", "run", "generate", "bench"}


@pytest.mark.usefixtures("little_text")
def test_every_rbe_command_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "README.md", tmp_path)
    run_all([line for line in commands() if line.startswith("rbe ")], capsys)


@pytest.mark.usefixtures("little_text")
def test_make_demo_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for line in make_recipe("demo") if "/rbe " in line]
    assert len(lines) == 3
    run_all(lines, capsys)


def test_every_make_target_exists() -> None:
    targets = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert targets[:2] == ["demo", "test"]
    for target in targets:
        assert make_recipe(target)


def test_its_verbs_are_only_rbe_and_make() -> None:
    assert {line.split()[0] for line in commands()} == {"rbe", "make"}
