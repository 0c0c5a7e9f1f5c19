"""Folders that exchange their names, and systems that cannot do it."""

import errno
import sys
from pathlib import Path

import pytest

from rbe_cli.container.path_exchange import exchange


def test_two_folders_exchange_their_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    done = exchange(tmp_path / "a", tmp_path / "b")
    found = [(tmp_path / name / "file").read_text() for name in ("a", "b")]
    assert found == (["b", "a"] if done else ["a", "b"])
    assert done or sys.platform != "linux"


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Library:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Library)
    monkeypatch.setattr("ctypes.get_errno", lambda: code)
    assert not exchange(tmp_path / "a", tmp_path / "b")


def test_systems_without_such_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    assert not exchange(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not exchange(tmp_path / "a", tmp_path / "b")
