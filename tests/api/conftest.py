"""A tiny checkpoint, compressed from Python."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import rbe_cli


@pytest.fixture(scope="session")
def rbe_file(tmp_path_factory: pytest.TempPathFactory, checkpoint: rbe_cli.Checkpoint) -> Path:
    """The compressed checkpoint; not to be changed in place."""
    path = tmp_path_factory.mktemp("api") / "tiny.rbe"
    rbe_cli.compress(checkpoint, path, calib_samples=16)
    return path


@pytest.fixture
def model(rbe_file: Path) -> Iterator[rbe_cli.Model]:
    with rbe_cli.load(rbe_file, threads=1) as model:
        yield model
