"""Check that a file gets its name only when complete, and that an old one is never damaged."""

import errno
import os
import stat
from pathlib import Path

import pytest
from deadlines import run_python

from rbe_cli.container.atomic_file import check_kind, check_output, new_file
from rbe_cli.errors import NotFoundError, OutputError


def test_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    with new_file(tmp_path / "a.rbe", force=False) as file:
        file.write(b"new")
    (tmp_path / "usual").touch()
    assert (tmp_path / "a.rbe").read_bytes() == b"new"
    mode = stat.S_IMODE((tmp_path / "a.rbe").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert (tmp_path / "a.rbe").stat().st_nlink == 1
    assert sorted(os.listdir(tmp_path)) == ["a.rbe", "usual"]


def test_force_replaces_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "a.rbe"
    path.write_bytes(b"old")
    with new_file(path, force=True) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        (leftover,) = set(os.listdir(tmp_path)) - {"a.rbe"}
        assert leftover.startswith(".rbe-")
        assert leftover.endswith(".partial")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.rbe"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
@pytest.mark.parametrize("force", [False, True])
def test_interruption_leaves_nothing(
    tmp_path: Path, failure: type[BaseException], force: bool
) -> None:
    path = tmp_path / "a.rbe"
    if force:
        path.write_bytes(b"old")

    def interrupted() -> None:
        with new_file(path, force=force) as file:
            file.write(b"new")
            raise failure

    with pytest.raises(failure):
        interrupted()
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"old"] * force


def test_existing_file_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.rbe"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"a\.rbe exists; use `force`"):
        check_output(path, force=False)
    with pytest.raises(OutputError, match="`force`"), new_file(path, force=False):
        pass
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("hard_links", [True, False])
def test_file_created_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    if not hard_links:
        monkeypatch.setattr(os, "link", _no_hard_links)
    path = tmp_path / "a.rbe"

    def race() -> None:
        with new_file(path, force=False) as file:
            file.write(b"mine")
            path.write_bytes(b"theirs")

    with pytest.raises(OutputError, match="`force`"):
        race()
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a.rbe"]


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _no_hard_links)
    with new_file(tmp_path / "a.rbe", force=False) as file:
        file.write(b"new")
    assert (tmp_path / "a.rbe").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.rbe"]


def _no_hard_links(source: object, target: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(
    ("code", "is_told"), [(errno.EIO, True), (errno.ENOSPC, True), (errno.EINVAL, False)]
)
def test_names_that_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_told: bool
) -> None:
    """Some file systems do not sync folders, and say EINVAL; others fail."""
    fsync = os.fsync

    def fail_for_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_folders)

    def write() -> None:
        with new_file(tmp_path / "a.rbe", force=False) as file:
            file.write(b"new")

    if is_told:
        with pytest.raises(OutputError, match=os.strerror(code)):
            write()
    else:
        write()
    assert (tmp_path / "a.rbe").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.rbe"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"folder .*none does not exist"):
        check_output(tmp_path / "none" / "a.rbe", force=False)


def test_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="does not exist"):
        check_output(tmp_path / "file" / "a.rbe", force=True)


def test_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The answer is replaced, not the folder's mode: root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="is not writable"):
        check_output(tmp_path / "a.rbe", force=False)


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "pipe", "link"):
        with pytest.raises(OutputError, match="is not a regular file"):
            check_output(tmp_path / name, force=True)


def test_name_too_long_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name too long"):
        check_output(tmp_path / ("a" * 300), force=False)


FULL_DISK = """
import resource, sys
from pathlib import Path
from rbe_cli.container.atomic_file import new_file
from rbe_cli.errors import OutputError

# Writing beyond the limit fails as on a full disk (Python ignores SIGXFSZ).
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with new_file(Path(sys.argv[1]), force=True) as file:
        file.write(bytes(50_000))
        file.write(bytes(150_000))
except OutputError as error:
    print(error)
"""


def test_write_that_fails_half_way_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.rbe"
    path.write_bytes(b"old")
    done = run_python(FULL_DISK, path, check=True)
    assert done.stdout == f"cannot write {path}: File too large\n"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.rbe"]


@pytest.mark.parametrize("content", [b"KIND", b"KIND and more", b""])
def test_a_file_of_the_kind_may_be_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    check_kind(tmp_path / "a", b"KIND")
    check_kind(tmp_path / "none", b"KIND")
    check_kind(tmp_path, b"KIND")  # a folder, which `check_output` refuses


@pytest.mark.parametrize("content", [b"KIN", b"KINX", b"other", b" KIND"])
def test_a_file_of_another_kind_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(OutputError, match=r"a is a file of another kind, which `force` does not"):
        check_kind(tmp_path / "a", b"KIND")
