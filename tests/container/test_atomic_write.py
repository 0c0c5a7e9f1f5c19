"""What is said of an output that cannot be written, in a folder that is there or is gone."""

import os
from pathlib import Path

import pytest

from rbe_cli.container.atomic_write import sync_folder, write_error

MISSING = FileNotFoundError(2, "No such file or directory")
DENIED = PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    ("folder", "error", "says"),
    [
        ("there", MISSING, "No such file or directory"),
        ("there", DENIED, "Permission denied"),
        ("gone", DENIED, "Permission denied"),
        ("gone", MISSING, "is gone; it was deleted or renamed meanwhile"),
    ],
)
def test_a_folder_that_is_gone_is_named(
    tmp_path: Path, folder: str, error: OSError, says: str
) -> None:
    (tmp_path / "there").mkdir()
    path = tmp_path / folder / "a.rbe"
    message = str(write_error(path, error))
    assert message.startswith(f"cannot write {path}: ")
    assert message.endswith(says)
    assert (f"the folder {path.parent} is gone" in message) == says.startswith("is gone")


def test_a_process_may_be_in_a_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    monkeypatch.chdir(own)
    assert "is gone" not in str(write_error(Path("a.rbe"), MISSING))
    os.rmdir(own)
    assert "is gone" in str(write_error(Path("a.rbe"), MISSING))
    assert "is gone" not in str(write_error(other / "a.rbe", MISSING))
    monkeypatch.chdir(tmp_path)


def test_a_folder_that_cannot_be_opened_is_not_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*arguments: object) -> int:
        raise DENIED

    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    sync_folder(tmp_path)
    assert len(synced) == 1
    monkeypatch.setattr("os.open", denied)
    sync_folder(tmp_path)
    assert len(synced) == 1
