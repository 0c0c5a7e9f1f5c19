"""A terminal has one live line: no verb asks for a second while the first is shown."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.cli.output import Output
from rbe_cli.progress import Progress, Stage, no_progress

TEXT = "The quick brown fox"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were shown at once, each time that one was asked for."""
    counts: list[int] = []
    now = 0

    @contextmanager
    def progress(out: Output, stages: Sequence[Stage] = ()) -> Iterator[Progress]:
        nonlocal now
        now += 1
        counts.append(now)
        try:
            yield no_progress
        finally:
            now -= 1

    monkeypatch.setattr(Output, "progress", progress)
    return counts


@pytest.mark.parametrize(
    "words",
    [
        ["run", "FILE", TEXT],
        ["run", "FILE", TEXT, "--reference", "SOURCE"],
        ["run", "FILE", TEXT, "--reference", "FILE"],
        ["run", "FILE", TEXT, "--perplexity"],
        ["generate", "FILE", TEXT, "--max-tokens", "3"],
        ["inspect", "FILE", "--verify", "--diff", "FILE"],
        ["compress", "SOURCE", "OUT", "--calib-samples", "4", "--force"],
        ["compress", "SOURCE", "OUT", "--dry-run"],
        ["compress", "FILE", "OUT", "--decompress"],
    ],
)
def test_one_line_at_a_time(
    rbe: Callable[..., Any],
    shown: list[int],
    words: list[str],
    rbe_file: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    places = {"FILE": rbe_file, "SOURCE": checkpoint, "OUT": tmp_path / "out"}
    done = rbe(*(places.get(word, word) for word in words))
    assert done.code == 0, done.err
    assert shown
    assert set(shown) == {1}
