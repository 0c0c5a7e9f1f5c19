"""Which names mean a `.rbe` file of this machine, and which one on the hub."""

import os
import sys
from pathlib import Path

import pytest

from rbe_cli.checkpoint.hub import hub_file
from rbe_cli.container.find_file import find_rbe, names_rbe
from rbe_cli.container.header import MAGIC


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[object, ...]]:
    """What the hub is asked for: (repository, file, revision, offline, progress)."""
    found: list[tuple[object, ...]] = []

    def fetch(repo, file, revision, *, offline, progress):
        found.append((repo, file, revision, offline, progress))
        return tmp_path / "fetched.rbe"

    monkeypatch.setattr(hub_file, "fetch_rbe", fetch)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "model.rbe",
        "model",
        "org/model.rbe",  # two parts with the suffix: a file in a folder
        "org/model/file",  # three parts without it
        "./org/name",
        "../org/name",
        "/org/name",
        "~/org/name",
        ".org/name",
        "org//name.rbe",
        "org/name/",
        "org/./a.rbe",
        "org/../a.rbe",
        "@main",
        "",
    ],
)
def test_what_is_written_like_a_path_is_one(asked, name) -> None:
    assert find_rbe(name, offline=False) == Path(name)
    assert asked == []


@pytest.mark.parametrize(
    ("name", "repo", "file", "revision"),
    [
        ("org/name", "org/name", None, None),
        ("org/name@v1", "org/name", None, "v1"),
        ("org/name@", "org/name", None, None),
        ("org/name@a@b", "org/name", None, "a@b"),
        ("org/name/a.rbe", "org/name", "a.rbe", None),
        ("org/name/folder/a.rbe@v1", "org/name", "folder/a.rbe", "v1"),
    ],
)
@pytest.mark.parametrize("offline", [False, True])
def test_other_names_are_those_of_the_hub(asked, tmp_path, name, repo, file, revision, offline):
    steps = []
    found = find_rbe(name, offline=offline, progress=steps.append)
    assert found == tmp_path / "fetched.rbe"
    assert asked == [(repo, file, revision, offline, steps.append)]


def test_what_lies_here_is_not_looked_up(asked, tmp_path) -> None:
    (tmp_path / "org").mkdir()
    os.symlink("nowhere", tmp_path / "org" / "name")
    assert find_rbe("org/name", offline=False) == Path("org/name")
    assert asked == []


def test_a_file_is_known_by_its_name_or_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "magic").write_bytes(MAGIC + b"more")
    (tmp_path / "short").write_bytes(MAGIC[:-1])
    assert names_rbe("nowhere.rbe")
    assert names_rbe("org/name/a.rbe@v1")
    assert names_rbe(str(tmp_path / "magic"))
    assert names_rbe(str(tmp_path / "short")) is False
    assert names_rbe(str(tmp_path / "none")) is False
    assert names_rbe(str(tmp_path)) is False
    assert not names_rbe("name.rbe/model")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not names_rbe(str(tmp_path / "pipe"))
