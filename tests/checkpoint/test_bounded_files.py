"""Files that are read whole, up to a limit."""

import tracemalloc

import pytest

from rbe_cli.checkpoint.checked_files import read_bounded, read_json_object
from rbe_cli.errors import CheckpointError


def test_a_file_up_to_the_limit_is_read(tmp_path):
    path = tmp_path / "x"
    for content in (b"", b"a", b"0123456789"):
        path.write_bytes(content)
        assert read_bounded(path, 10) == content
    path.write_bytes(b"0123456789a")
    with pytest.raises(CheckpointError, match="more than 10 bytes"):
        read_bounded(path, 10)


def test_a_small_file_takes_little_memory(tmp_path):
    (tmp_path / "config.json").write_bytes(b"{}")
    tracemalloc.start()
    try:
        assert read_json_object(tmp_path / "config.json") == {}
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
