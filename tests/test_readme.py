"""Every command that README.md shows works as shown."""

import shutil
import subprocess
from pathlib import Path

import pytest
from deadlines import SECONDS
from documents import ROOT, commands, run_all

README = ROOT / "README.md"


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


@pytest.fixture
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `compress` calibrate on a sixteenth of the usual text, in a fifth of the time."""
    monkeypatch.setattr("rbe_cli.compression.calibration.default_samples", lambda *_: 8)


def test_it_shows_every_verb() -> None:
    shown = {line.split()[1] for line in commands(README) if line.startswith("rbe ")}
    assert shown == {"compress", "inspect", "run", "generate", "bench"}


@pytest.mark.usefixtures("little_text")
def test_every_rbe_command_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "README.md", tmp_path)
    run_all([line for line in commands(README) if line.startswith("rbe ")], capsys)


@pytest.mark.usefixtures("little_text")
def test_make_demo_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for line in make_recipe("demo") if "/rbe " in line]
    assert len(lines) == 3
    run_all(lines, capsys)


def test_every_make_target_exists() -> None:
    targets = [line.split()[1] for line in commands(README) if line.startswith("make ")]
    assert targets[:2] == ["demo", "test"]
    for target in targets:
        assert make_recipe(target)


def test_its_verbs_are_only_rbe_and_make() -> None:
    assert {line.split()[0] for line in commands(README)} == {"rbe", "make"}
