"""A file that another program cuts short while a verb reads it: exit code 3, and no signal.

Were a part of it mapped, the system would end the test process.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbe_cli.container.file_bytes import FileBytes

Rbe = Callable[..., Any]
SMALL = ["--repeat", "1", "--max-tokens", "1", "--prompt-tokens", "2"]
VERBS = {
    "inspect": ["inspect", "FILE", "--verify"],
    "diff": ["inspect", "FILE", "--diff", "FILE"],
    "run": ["run", "FILE", "The quick brown fox", "--top-k", "0"],
    "perplexity": ["run", "FILE", "The quick brown fox", "--perplexity"],
    "generate": ["generate", "FILE", "The quick brown fox", "--max-tokens", "2"],
    "limited": ["generate", "FILE", "The quick", "--max-tokens", "2", "--max-memory", "1GB"],
    "bench": ["bench", "--model", "FILE", *SMALL],
    "folder": ["compress", "--decompress", "FILE", "OUT"],
    "gguf": ["compress", "--decompress", "FILE", "OUT.gguf"],
    "compress": ["compress", "FILE", "OUT.rbe", "--calib-samples", "8"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_cut_short_while_it_is_read(
    rbe: Rbe, rbe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    path, content, whole = tmp_path / "cut.rbe", rbe_file.read_bytes(), FileBytes.read_into
    reads = 0

    def read_and_cut(own: FileBytes, memory: memoryview, start: int) -> None:
        nonlocal reads
        reads += 1
        if reads == last:
            os.truncate(path, len(content) // 3)
        whole(own, memory, start)

    monkeypatch.setattr(FileBytes, "read_into", read_and_cut)
    names = {"FILE": path, "OUT": tmp_path / "out"}
    command = [names.get(word, word.replace("OUT", f"{tmp_path}/out")) for word in VERBS[verb]]
    for last in (1, 2, 6, 12):
        path.write_bytes(content)
        reads = 0
        done = rbe(*command, "-q")
        if reads < last:  # it read less, and the file was whole
            assert done.code == 0, done.err
            break
        assert (done.code, done.err.count("\n")) == (3, 1), done.err
        assert done.err.startswith(f"rbe: {path}: ")
        assert {own.name for own in tmp_path.iterdir()} <= {"cut.rbe", "out.rbe.work"}
