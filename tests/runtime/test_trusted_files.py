"""Machine code is read only where nobody else can have written it."""

import os
import warnings
from pathlib import Path

import pytest

from rbe_cli.runtime import trusted_files
from rbe_cli.runtime.trusted_files import RefusedCodeWarning, make_trusted_folder, read_trusted


@pytest.fixture
def file(tmp_path):
    """A file in a folder that is ours alone."""
    path = tmp_path / "cache" / "x.o"
    assert make_trusted_folder(path.parent)
    path.write_bytes(b"code")
    path.chmod(0o644)
    return path


def test_a_new_folder_is_ours_alone(tmp_path):
    assert make_trusted_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert make_trusted_folder(tmp_path / "a" / "b")


def test_our_own_file_is_read(file):
    assert read_trusted(file) == b"code"
    file.parent.chmod(0o755)
    file.chmod(0o600)
    assert read_trusted(file) == b"code"


def test_what_is_not_there_is_nothing_to_warn_of(tmp_path):
    assert read_trusted(tmp_path / "x.o") is None
    assert read_trusted(tmp_path / "none" / "x.o") is None


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_folder_that_others_can_write_is_refused(file, mode):
    file.parent.chmod(mode)
    with pytest.warns(RefusedCodeWarning, match=rf"others can write there \(mode {mode:o}\)"):
        assert read_trusted(file) is None
    assert not make_trusted_folder(file.parent)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(file, mode):
    file.chmod(mode)
    with pytest.warns(RefusedCodeWarning, match=r"x\.o, as others can write there"):
        assert read_trusted(file) is None


def test_what_belongs_to_somebody_else_is_refused(file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(trusted_files, "_ROOT", -1)  # whose files are trusted by all
    with pytest.warns(RefusedCodeWarning, match=rf"it belongs to user {os.getuid()}$"):
        assert read_trusted(file) is None
    assert not make_trusted_folder(file.parent)


def test_what_belongs_to_root_is_read(file, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(trusted_files, "_ROOT", os.getuid())
    assert read_trusted(file) == b"code"


def test_a_link_in_the_place_of_a_file_is_not_followed(file):
    file.rename(file.with_name("other"))
    file.symlink_to("other")
    assert read_trusted(file) is None


def test_a_link_to_a_folder_is_judged_by_the_folder(file, tmp_path):
    (tmp_path / "link").symlink_to(file.parent)
    assert read_trusted(tmp_path / "link" / "x.o") == b"code"
    file.parent.chmod(0o777)
    with pytest.warns(RefusedCodeWarning, match="link"):
        assert read_trusted(tmp_path / "link" / "x.o") is None


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(file):
    file.unlink()
    os.mkfifo(file)
    with pytest.warns(RefusedCodeWarning, match="it is not a regular file"):
        assert read_trusted(file) is None


def test_no_descriptor_is_left_open(file):
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for mode in (0o700, 0o777):
            file.parent.chmod(mode)
            read_trusted(file)
        file.parent.chmod(0o700)
        read_trusted(file.with_name("none"))
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_a_system_without_these_rules_is_taken_at_its_word(file, monkeypatch):
    monkeypatch.delattr(os, "geteuid")
    file.parent.chmod(0o777)
    assert read_trusted(file) == b"code"
    assert read_trusted(file.with_name("none")) is None
    assert make_trusted_folder(file.parent)
