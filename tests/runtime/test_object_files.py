"""Object files: found where they fit, and refused where they are damaged or stale."""

import os
import sys
from pathlib import Path

import pytest

import rbe_cli
from rbe_cli.runtime import object_files
from rbe_cli.runtime.instruction_sets import InstructionSet
from rbe_cli.runtime.object_files import cache_folder, find, keep, pack, ship
from rbe_cli.runtime.trusted_files import RefusedCodeWarning

PORTABLE = InstructionSet.portable
SOURCE = Path(rbe_cli.__file__)
CODE = b"machine code"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Empty folders of shipped and of cached files."""
    shipped, cached = tmp_path / "shipped", tmp_path / "cached"
    monkeypatch.setattr(object_files, "SHIPPED", shipped)
    monkeypatch.setenv("RBE_CACHE_DIR", str(cached))
    return shipped, cached


def packed():
    return pack(CODE, PORTABLE, [SOURCE])


def test_what_is_kept_is_found(folders):
    assert find("library", PORTABLE) is None
    keep("library", PORTABLE, packed())
    assert find("library", PORTABLE) == CODE
    assert find("other", PORTABLE) is None
    assert find("library", InstructionSet.avx2) is None


def test_what_ships_comes_first(folders):
    keep("library", PORTABLE, packed())
    ship("library", PORTABLE, pack(b"shipped", PORTABLE, [SOURCE]))
    assert find("library", PORTABLE) == b"shipped"


def test_a_shipped_file_of_another_hash_is_refused(folders):
    path = ship("library", PORTABLE, packed())
    ship("other", PORTABLE, packed())
    assert find("library", PORTABLE) == CODE
    path.write_bytes(pack(b"forged", PORTABLE, [SOURCE]))  # with a checksum that is right
    keep("library", PORTABLE, packed())
    with pytest.warns(RefusedCodeWarning, match="not the file that was built with this package"):
        assert find("library", PORTABLE) == CODE  # the cached one
    assert find("other", PORTABLE) == CODE
    ship("library", PORTABLE, packed())
    assert find("library", PORTABLE) == CODE


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff", b"{}"])
def test_a_shipped_file_without_a_hash_is_refused(folders, content):
    ship("library", PORTABLE, packed())
    hashes = folders[0] / "hashes.json"
    hashes.unlink() if content is None else hashes.write_bytes(content)
    with pytest.warns(RefusedCodeWarning):
        assert find("library", PORTABLE) is None


def test_a_cache_that_others_can_write_is_neither_read_nor_written(folders):
    keep("library", PORTABLE, packed())
    folders[1].chmod(0o777)
    with pytest.warns(RefusedCodeWarning, match="others can write there"):
        assert find("library", PORTABLE) is None
    keep("other", PORTABLE, packed())
    assert len(list(folders[1].iterdir())) == 1


def test_a_planted_file_is_not_used(folders):
    keep("library", PORTABLE, packed())
    (path,) = folders[1].iterdir()
    path.chmod(0o666)
    with pytest.warns(RefusedCodeWarning, match="compiled programs are not taken from"):
        assert find("library", PORTABLE) is None


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_the_cache_is_ours_alone(folders, umask):
    before = os.umask(umask)
    try:
        keep("library", PORTABLE, packed())
    finally:
        os.umask(before)
    assert find("library", PORTABLE) == CODE
    (path,) = folders[1].iterdir()
    assert folders[1].stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_not_used(folders, damage):
    data = bytearray(packed())
    data[-1] ^= 1
    keep("library", PORTABLE, {"cut": packed()[:100], "flip": bytes(data), "empty": b""}[damage])
    assert find("library", PORTABLE) is None


def test_code_of_other_sources_is_not_used(folders, tmp_path, monkeypatch):
    source = tmp_path / "package" / "kernel.py"
    source.parent.mkdir()
    source.write_text("first")
    monkeypatch.setattr(object_files, "_PACKAGE", source.parent)
    keep("library", PORTABLE, pack(CODE, PORTABLE, [source]))
    assert find("library", PORTABLE) == CODE
    source.write_text("edited")
    assert find("library", PORTABLE) is None
    source.unlink()
    assert find("library", PORTABLE) is None


def test_code_of_another_platform_is_not_used(folders, monkeypatch):
    keep("library", PORTABLE, packed())
    monkeypatch.setattr(object_files, "_platform", lambda instructions: "another")
    monkeypatch.setattr(object_files, "_cache_path", lambda *_: next(iter(folders[1].iterdir())))
    assert find("library", PORTABLE) is None


def test_a_cache_that_cannot_be_written_is_survived(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("RBE_CACHE_DIR", str(file / "folder"))
    keep("library", PORTABLE, packed())
    assert find("library", PORTABLE) is None


def test_nothing_half_written_is_left(folders):
    keep("library", PORTABLE, packed())
    keep("library", PORTABLE, packed())
    assert len(list(folders[1].iterdir())) == 1


def test_the_cache_folder_follows_the_system(monkeypatch, tmp_path):
    monkeypatch.setenv("RBE_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("RBE_CACHE_DIR")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rbe"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library/Caches/rbe"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_folder() == tmp_path / "rbe"
