import os
import sys
import tracemalloc
import zipfile
from io import BytesIO
from subprocess import PIPE

import msgspec
import numpy as np
import psutil
import pytest
from deadlines import started

from rbe_cli.errors import OutputError, UsageError
from rbe_cli.jobs.work_folder import WorkFolder

JOB = {"source": "tiny", "settings": {"bits": 4.0, "rules": ("a", "b")}, "seed": 0}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.rbe.work"


def test_what_is_saved_comes_back(path):
    folder = WorkFolder.open(path, JOB, resume=False)
    arrays = {
        "b c": np.arange(6, dtype=np.int16).reshape(2, 3),
        "a": np.array(0.1),
        "e": np.empty(0),
    }
    folder.save("step", arrays)
    for found in (folder.load("step"), folder.require("step")):
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    assert folder.load("other") is None
    folder.save("nothing", {})
    assert folder.load("nothing") == {}


def test_a_step_is_computed_once(path):
    folder, computed = WorkFolder.open(path, JOB, resume=False), []

    def compute():
        computed.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        np.testing.assert_array_equal(folder.keep("step", compute)["a"], np.arange(3))
    assert computed == [1]
    folder.discard("step")
    folder.discard("step")
    folder.keep("step", compute)
    assert computed == [1, 1]


@pytest.mark.parametrize("resume", [True, False])
def test_only_resuming_keeps_what_is_there(path, resume):
    WorkFolder.open(path, JOB, resume=resume).save("step", {"a": np.arange(3)})
    again = WorkFolder.open(path, JOB, resume=resume)
    assert (again.load("step") is not None) == resume


def test_another_job_s_work_is_not_taken_up(path):
    WorkFolder.open(path, JOB, resume=False).save("step", {"a": np.arange(3)})
    with pytest.raises(UsageError, match="another job: `resume` needs the same source"):
        WorkFolder.open(path, JOB | {"seed": 1}, resume=True)
    assert WorkFolder.open(path, JOB, resume=True).load("step") is not None
    assert WorkFolder.open(path, JOB | {"seed": 1}, resume=False).load("step") is None


@pytest.mark.parametrize("content", [b"", b"PK", b"\0" * 300])
def test_a_damaged_step_counts_as_missing(path, content):
    folder = WorkFolder.open(path, JOB, resume=False)
    folder.save("step", {"a": np.arange(1000)})
    whole = (path / "step.npz").read_bytes()
    (path / "step.npz").write_bytes(content or whole[: len(whole) // 2])
    assert folder.load("step") is None
    with pytest.raises(OutputError, match="damaged: begin anew, without `resume`"):
        folder.require("step")


def test_a_step_that_cannot_be_read_is_named(path, monkeypatch):
    folder = WorkFolder.open(path, JOB, resume=False)
    folder.save("step", {"a": np.arange(3)})

    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(np, "load", fail)
    assert folder.load("step") is None
    with pytest.raises(OutputError, match=f"cannot read {path / 'step.npz'}: Input/output error"):
        folder.require("step")


def test_flipped_bits_are_noticed(path):
    folder = WorkFolder.open(path, JOB, resume=False)
    folder.save("step", {"a": np.arange(1000)})
    data = bytearray((path / "step.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "step.npz").write_bytes(data)
    assert folder.load("step") is None


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_killed_before_it_began_is_no_hindrance(path, resume):
    path.mkdir()
    (path / "partial").write_bytes(b"PK")
    WorkFolder.open(path, JOB, resume=resume).save("step", {})


def test_removing_leaves_what_is_not_ours(path):
    folder = WorkFolder.open(path, JOB, resume=False)
    folder.save("step", {})
    folder.remove()
    assert not path.exists()
    folder = WorkFolder.open(path, JOB, resume=False)
    (path / "diary.txt").write_text("dear")
    folder.remove()
    assert list(path.iterdir()) == [path / "diary.txt"]


@pytest.mark.parametrize("resume", [True, False])
def test_other_folders_and_files_are_left_alone(path, resume):
    path.mkdir()
    (path / "diary.npz").write_text("dear")
    with pytest.raises(OutputError, match="in the way"):
        WorkFolder.open(path, JOB, resume=resume)
    assert (path / "diary.npz").read_text() == "dear"
    (path / "diary.npz").unlink()
    path.rmdir()
    path.write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        WorkFolder.open(path, JOB, resume=resume)


def test_a_folder_serves_one_process_at_a_time(path):
    WorkFolder.open(path, JOB, resume=False).save("step", {})
    marker = msgspec.json.decode((path / "job.json").read_bytes())
    assert marker["process"][0] == os.getpid()
    with started([sys.executable, "-c", "input()"], stdin=PIPE) as other:
        marker["process"] = other.pid, psutil.Process(other.pid).create_time()
        (path / "job.json").write_bytes(msgspec.json.encode(marker))
        for resume in (True, False):
            with pytest.raises(OutputError, match=f"process {other.pid} works in"):
                WorkFolder.open(path, JOB, resume=resume)
    assert WorkFolder.open(path, JOB, resume=True).load("step") == {}


def test_the_lock_of_a_folder_is_let_go(path):
    """By an object that is done with it, and when its process is killed."""
    first = WorkFolder.open(path, JOB, resume=False)
    with pytest.raises(OutputError, match=f"another process works in {path} at this moment"):
        WorkFolder.open(path, JOB, resume=True)
    first.release()
    WorkFolder.open(path, JOB, resume=True).remove()
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rbe_cli.jobs.work_folder import WorkFolder\n"
        "folder = WorkFolder.open(Path(sys.argv[1]), {}, resume=False)\n"
        "print(flush=True)\n"
        "input()\n"
    )
    with started([sys.executable, "-c", script, path], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout.readline() == "\n"
        with pytest.raises(OutputError, match="another process works in"):
            WorkFolder.open(path, JOB, resume=False)
        other.kill()
        other.wait()
        WorkFolder.open(path, JOB, resume=False).remove()
    assert not path.exists()


def test_a_folder_that_is_refused_is_not_locked(path):
    WorkFolder.open(path, JOB, resume=False).release()
    with pytest.raises(UsageError, match="the work of another job") as caught:
        WorkFolder.open(path, {}, resume=True)
    WorkFolder.open(path, JOB, resume=True).remove()
    assert caught.value.__traceback__ is not None  # which holds all that the call had


def test_a_folder_that_is_deleted_while_its_lock_is_waited_for(path, monkeypatch):
    """The owner before deletes the folder when another process has opened, not yet locked it."""
    tries = []

    def delete_once(descriptor):
        if not tries:
            path.rmdir()
        tries.append(descriptor)
        return True

    monkeypatch.setattr("rbe_cli.jobs.work_folder.try_lock", delete_once)
    WorkFolder.open(path, JOB, resume=False).save("step", {"a": np.arange(3)})
    assert len(tries) == 2
    assert (path / "step.npz").exists()


def test_a_full_disk_is_told(path, monkeypatch):
    folder = WorkFolder.open(path, JOB, resume=False)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match=r"cannot write .*: No space left on device"):
        folder.save("step", {"a": np.arange(3)})
    assert folder.load("step") is None


def stored(arrays):
    """The bytes of a file of arrays, as numpy writes it."""
    file = BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def compressed():
    """A small file of 80 MB."""
    file = BytesIO()
    np.savez_compressed(file, a=np.zeros(10_000_000))
    return file.getvalue()


def promising(shape):
    """A file whose array's header has another shape."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive, archive.open("a.npy", "w") as part:
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(part, header)
        part.write(bytes(8))
    return file.getvalue()


def repeated():
    """A file whose directory lists one array many times."""
    one = stored({"a": np.zeros(1000)})
    start = one.index(b"PK\x01\x02")
    end = one.index(b"PK\x05\x06")
    entry, count = one[start:end], 500
    tail = bytearray(one[end:])
    tail[8:12] = count.to_bytes(2, "little") * 2
    tail[12:16] = (count * len(entry)).to_bytes(4, "little")
    return one[:start] + entry * count + tail


@pytest.mark.parametrize(
    "content",
    [
        compressed(),
        promising((10**12,)),
        promising((-1, 10**12)),
        repeated(),
        b"PK\5\6" + bytes(18),
    ],
    ids=["compressed", "promising", "negative", "repeated", "empty"],
)
def test_a_planted_step_takes_no_memory(path, content):
    folder = WorkFolder.open(path, JOB, resume=False)
    (path / "step.npz").write_bytes(content)
    tracemalloc.start()
    try:
        found = folder.load("step")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not found
    assert peak < 8_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_planted_pipes_and_links_are_not_used(path, tmp_path):
    folder = WorkFolder.open(path, JOB, resume=False)
    os.mkfifo(path / "step.npz")
    assert folder.load("step") is None  # and does not wait
    other = tmp_path / "other"
    other.write_text("kept")
    (path / "partial").symlink_to(other)
    folder.save("step", {"a": np.arange(3)})
    assert other.read_text() == "kept"
    np.testing.assert_array_equal(folder.require("step")["a"], np.arange(3))
    folder.release()
    (path / "job.json").unlink()
    os.mkfifo(path / "job.json")
    with pytest.raises(OutputError, match="is in the way: it holds other files"):
        WorkFolder.open(path, JOB, resume=True)
