"""A file that another program changes while it is open: what was checked is what is used."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rbe_cli.container import reader
from rbe_cli.container.file_bytes import FileBytes
from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import BadFileError, ChecksumError, TruncatedError

Change = Callable[[Path], object]
WROTE = "another program wrote to the file while it was read"


@pytest.fixture
def path(tmp_path: Path, rbe_file: Path) -> Path:
    """A copy that may be changed, last written to long ago."""
    copy = tmp_path / "copy.rbe"
    copy.write_bytes(rbe_file.read_bytes())
    os.utime(copy, (1, 1))
    return copy


def overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))


def test_a_slice_is_what_the_file_holds(path: Path) -> None:
    data, content = FileBytes(path), path.read_bytes()
    assert len(data) == len(content)
    for part in (slice(0, 4), slice(3, None), slice(None), slice(7, 7), slice(9, 10**9)):
        assert data[part] == content[part]
        assert data[part].readonly
    data.release()
    with pytest.raises(ValueError, match="released"):
        data[:4]


def test_a_device_is_refused() -> None:
    with pytest.raises(ValueError, match="regular"):
        FileBytes(Path("/dev/null"))


def test_a_file_that_is_cut_short_is_truncated(path: Path) -> None:
    with Container.open(path) as container:
        os.truncate(path, 100)
        for read in (container.verify, lambda: container.section("wte.weight")):
            with pytest.raises(TruncatedError, match=f"^{path}: .* become shorter .*: {WROTE}$"):
                read()


def test_a_file_that_is_written_over_is_damaged(path: Path) -> None:
    with Container.open(path) as container:
        overwrite(path)
        with pytest.raises(ChecksumError, match=f"^{path}: section wte.weight .*: {WROTE}$"):
            container.section("wte.weight")


def test_what_was_checked_is_what_is_used(
    path: Path, tensors: list[StoredTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written over at the moment when a checksum is known to be right."""
    checksum = reader.checksum

    def check_and_overwrite(data: bytes | memoryview) -> bytes:
        found = checksum(data)
        overwrite(path)
        return found

    with Container.open(path) as container:
        monkeypatch.setattr(reader, "checksum", check_and_overwrite)
        assert container.tensors["wte.weight"].data == tensors[0].data
        with pytest.raises(ChecksumError, match=WROTE):
            container.section("wte.weight")


def test_a_file_that_cannot_be_read_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Container.open(path) as container:
        monkeypatch.setattr(FileBytes, "_read", _fail)
        with pytest.raises(BadFileError, match=f"^cannot read {path}: Input/output error$"):
            container.section("wte.weight")


def _fail(*_: object) -> int:
    raise OSError(5, "Input/output error")


def test_short_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FileBytes._read
    monkeypatch.setattr(FileBytes, "_read", lambda own, part, at: whole(own, part[:7], at))
    assert FileBytes(path)[:] == path.read_bytes()


def test_systems_without_preadv_read_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "preadv")
    data = FileBytes(path)
    assert data[5:] == path.read_bytes()[5:]
    assert data[:5] == path.read_bytes()[:5]
