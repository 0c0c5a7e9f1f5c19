"""Check that a folder gets its name only when complete, and that no other file is deleted."""

import os
from pathlib import Path

import pytest

from rbe_cli.container import atomic_folder, path_exchange
from rbe_cli.container.atomic_folder import check_folder, new_folder
from rbe_cli.errors import NotFoundError, OutputError


def is_ours(name: str) -> bool:
    return name == "a.txt"


def write(path: Path, text: str = "new", force: bool = False) -> None:
    with new_folder(path, is_ours, force=force) as folder:
        (folder / "a.txt").write_text(text)


def test_it_appears_at_the_end(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", is_ours, force=False) as folder:
        (folder / "a.txt").write_text("new")
        assert not (tmp_path / "out").exists()
        assert folder.name.startswith(".rbe-")
        assert folder.name.endswith(".partial")
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a.txt").read_text() == "new"


def test_an_old_folder_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with new_folder(tmp_path / "out", is_ours, force=True) as folder:
        (folder / "a.txt").write_text("new")
        assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert (tmp_path / "out" / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
@pytest.mark.parametrize("force", [False, True])
def test_interruption_leaves_nothing(
    tmp_path: Path, failure: type[BaseException], force: bool
) -> None:
    if force:
        write(tmp_path / "out", "old")

    def interrupted() -> None:
        with new_folder(tmp_path / "out", is_ours, force=force) as folder:
            (folder / "a.txt").write_text("new")
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert os.listdir(tmp_path) == ["out"] * force
    if force:
        assert (tmp_path / "out" / "a.txt").read_text() == "old"


def test_the_old_folder_is_put_back_if_the_new_one_cannot_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out", "old")
    rename = os.rename

    def fail_on_the_new_one(source: Path, target: Path) -> None:
        if source.name.endswith(".partial"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(path_exchange, "exchange", lambda *_: False)
    monkeypatch.setattr(atomic_folder.os, "rename", fail_on_the_new_one)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "out", force=True)
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a.txt").read_text() == "old"


def test_what_may_not_be_replaced_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with pytest.raises(OutputError, match="exists"):
        check_folder(tmp_path / "out", is_ours, force=False)
    (tmp_path / "out" / "a.txt").unlink()
    (tmp_path / "out" / "a.txt").symlink_to(tmp_path)
    with pytest.raises(OutputError, match=r"other files, which `force` does not delete: a\.txt"):
        check_folder(tmp_path / "out", is_ours, force=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for name in ("file", "link"):
        with pytest.raises(OutputError, match="not a folder"):
            check_folder(tmp_path / name, is_ours, force=True)
    with pytest.raises(NotFoundError, match="none does not exist"):
        check_folder(tmp_path / "none" / "out", is_ours, force=False)


def test_a_file_that_appears_meanwhile_survives(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")

    def meanwhile() -> None:
        with new_folder(tmp_path / "out", is_ours, force=True):
            (tmp_path / "out" / "b.txt").touch()

    with pytest.raises(OutputError, match=r"b\.txt"):
        meanwhile()
    assert sorted(os.listdir(tmp_path / "out")) == ["a.txt", "b.txt"]


def test_two_processes_that_write_one_folder(tmp_path: Path) -> None:
    """The second to end finds the folder of the first, and says so."""

    def both() -> None:
        with new_folder(tmp_path / "out", is_ours, force=False) as folder:
            (folder / "a.txt").write_text("second")
            write(tmp_path / "other", "first")
            check = atomic_folder.check_folder
            atomic_folder.check_folder = lambda *_, **__: None  # it looks just before
            (tmp_path / "other").rename(tmp_path / "out")
        atomic_folder.check_folder = check

    exists = Path.exists
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic_folder, "check_folder", atomic_folder.check_folder)
        patch.setattr(Path, "exists", lambda own: own.name != "out" and exists(own))
        with pytest.raises(OutputError, match="out exists; use `force`"):
            both()
    assert (tmp_path / "out" / "a.txt").read_text() == "first"
    assert os.listdir(tmp_path) == ["out"]


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    def full() -> None:
        with new_folder(tmp_path / "out", is_ours, force=False):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        full()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("names", "named"),
    [(["b", "a"], "a, b"), (["c", "a", "b"], "a, b, c"), (["d", "c", "b", "a"], "a, b, c, ...")],
)
def test_three_of_the_files_that_stay_are_named(
    tmp_path: Path, names: list[str], named: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in (*names, "x.mine"):
        (folder / name).touch()
    with pytest.raises(OutputError) as caught:
        check_folder(folder, lambda name: name.endswith(".mine"), force=True)
    assert str(caught.value).endswith(f"holds other files, which `force` does not delete: {named}")


def test_the_name_of_a_new_folder_reaches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, bool]] = []

    def note(folder: Path) -> None:
        synced.append((folder, (tmp_path / "out").exists()))

    monkeypatch.setattr(atomic_folder, "sync_folder", note)
    with new_folder(tmp_path / "out", lambda name: True, force=False) as folder:
        (folder / "a").touch()
    assert synced[-1] == (tmp_path, True)


def test_a_disk_that_fails_when_the_folder_gets_its_name_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.rename", fail)
    with (
        pytest.raises(OutputError, match=r"cannot write .*out: Input/output error"),
        new_folder(tmp_path / "out", lambda name: True, force=False) as folder,
    ):
        (folder / "a").touch()
    assert list(tmp_path.iterdir()) == []
