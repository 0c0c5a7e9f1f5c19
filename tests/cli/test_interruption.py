"""Signals and a full disk during compress: nothing is lost, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deadlines import run_python, started

from rbe_cli.cli.run_verb import NPY_START, NPZ_START
from rbe_cli.compression.output_file import OutputFile
from rbe_cli.container.header import MAGIC
from rbe_cli.jobs.work_folder import WorkFolder

Rbe = Callable[..., Any]
Start = Callable[..., "subprocess.Popen[str]"]
PRECIOUS = MAGIC + b"precious"  # an older file, as far as --force looks
SECONDS = 20  # until an interrupted command has ended, on a busy machine


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An old output, alone in its folder."""
    path = tmp_path / "a.rbe"
    path.write_bytes(PRECIOUS)
    return path


def is_untouched(output: Path, content: bytes = PRECIOUS) -> bool:
    """The output is as it was, and nothing but finished work lies beside it."""
    beside = {path.name for path in output.parent.iterdir()} - {output.name}
    return beside <= {f"{output.name}.work"} and output.read_bytes() == content


def wait_for_calibration(process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    while "writing calibration text" not in (line := process.stderr.readline()):
        assert line  # the command has not ended


SAID = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (143, "ended by SIGTERM"),
    signal.SIGHUP: (129, "ended by SIGHUP"),
}


@pytest.mark.parametrize(
    ("kind", "second"),
    [
        (signal.SIGINT, None),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGHUP, signal.SIGTERM),
        (signal.SIGINT, signal.SIGINT),
    ],
)
def test_a_signal_during_compress(
    start: Start,
    checkpoint: Path,
    output: Path,
    kind: signal.Signals,
    second: signal.Signals | None,
) -> None:
    """Alone, or with another one that comes while the first is answered."""
    process = start("compress", checkpoint, output, "--force", "--calib-samples", 1_000_000)
    wait_for_calibration(process)
    assert process.stderr is not None
    process.send_signal(kind)
    err = process.stderr.readline()
    if second is not None:
        process.send_signal(second)
    err += process.stderr.read()
    code, said = SAID[kind]
    assert process.wait() == code
    note = f"what is finished is kept in {output}.work: --resume goes on from it"
    assert err == f"{note}\n{said}\n"
    assert is_untouched(output)


@pytest.mark.parametrize(
    ("ignored", "other"),
    [(signal.SIGINT, signal.SIGTERM), (signal.SIGHUP, signal.SIGINT)],
    ids=["background", "nohup"],
)
def test_a_signal_that_the_caller_ignores_stays_ignored(
    start: Start, checkpoint: Path, output: Path, ignored: signal.Signals, other: signal.Signals
) -> None:
    before = f"trap '' {ignored.name.removeprefix('SIG')}"
    command = ["compress", checkpoint, output, "--force", "--calib-samples", 1_000_000]
    process = start(*command, before=before)
    wait_for_calibration(process)
    process.send_signal(ignored)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(other)
    process.communicate(timeout=SECONDS)
    assert process.returncode == SAID[other][0]
    assert is_untouched(output)


def test_a_second_process_on_one_output(
    start: Start, rbe: Rbe, checkpoint: Path, output: Path
) -> None:
    command = ["compress", checkpoint, output, "--force", "--calib-samples", 1_000_000]
    first = start(*command)
    wait_for_calibration(first)
    second = rbe(*command, "-q")
    assert (second.code, second.out) == (1, "")
    assert second.err == f"rbe: another process works in {output}.work at this moment\n"
    assert first.poll() is None
    assert is_untouched(output)


def test_ctrl_c_does_not_wait_for_a_long_task(checkpoint: Path, output: Path) -> None:
    script = (
        "import time\n"
        "from rbe_cli.__main__ import main\n"
        "from rbe_cli.compression import calibration\n"
        "calibration._write = lambda *_: time.sleep(600)\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "compress", checkpoint, output, "--force"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for_calibration(process)
        time.sleep(0.2)  # the task has begun
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert is_untouched(output)


def test_ctrl_c_while_the_program_starts(checkpoint: Path, output: Path) -> None:
    script = (
        "import sys\n"
        "from rbe_cli.__main__ import main\n"
        "class Impatient:\n"
        "    def find_spec(self, *_):\n"
        "        raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "main()\n"
    )
    done = run_python(script, "--help")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_while_the_file_is_written(
    rbe: Rbe, checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def interrupt(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size > 10_000:  # the output, not the marker of the work folder
            written.append(size)
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    done = rbe("compress", checkpoint, output, "--force", "--calib-samples", 8)
    assert (done.code, done.out) == (130, "")
    assert done.err.endswith("interrupted\n")
    assert len(written) == 1
    assert is_untouched(output)


def test_quiet_ctrl_c_says_nothing(
    rbe: Rbe, checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rbe_cli.compression.pipeline.compress", interrupt)
    done = rbe("compress", checkpoint, output, "--force", "-q")
    assert (done.code, done.out, done.err) == (130, "", "")


def test_signals_after_the_first_do_not_disturb_what_is_tidied_up() -> None:
    script = (
        "import os, signal, time\n"
        "from rbe_cli.errors import Terminated\n"
        "from rbe_cli.runtime.ending_signals import SIGNALS\n"
        "SIGNALS.catch()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "except Terminated as ended:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('tidied up', ended.exit_code, flush=True)\n"
        "now = time.monotonic() + 60\n"
        "time.monotonic = lambda: now\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print('never')\n"
    )
    done = run_python(script)
    assert (done.returncode, done.stdout, done.stderr) == (129, "tidied up 143\n", "")


@pytest.mark.parametrize("gone", ["folder", "work"])
def test_a_folder_that_disappears(
    rbe: Rbe, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    output, moved = folder / "a.rbe", tmp_path / "moved"
    lost = {"folder": folder, "work": folder / "a.rbe.work"}[gone]
    save = WorkFolder.save

    def move_and_save(own: WorkFolder, *arguments: Any) -> None:
        if lost.exists():
            lost.rename(moved)
        save(own, *arguments)

    monkeypatch.setattr(WorkFolder, "save", move_and_save)
    done = rbe("compress", checkpoint, output, "--calib-samples", 8, "-q")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert done.err.startswith("rbe: cannot write ")
    assert f": the folder {lost} is gone; it was deleted or renamed" in done.err
    assert any(moved.iterdir())


def test_a_folder_that_disappears_before_the_end(
    rbe: Rbe, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    write = OutputFile.write

    def move_and_write(own: OutputFile, *arguments: Any, **options: Any) -> int:
        folder.rename(tmp_path / "moved")
        return write(own, *arguments, **options)

    monkeypatch.setattr(OutputFile, "write", move_and_write)
    done = rbe("compress", checkpoint, folder / "a.rbe", "--calib-samples", 8, "-q")
    assert (done.code, done.err) == (
        1,
        f"rbe: cannot write {folder / 'a.rbe'}: the folder {folder} is gone; "
        "it was deleted or renamed meanwhile\n",
    )
    assert (tmp_path / "moved" / "a.rbe.work").is_dir()


def test_a_full_disk(start: Start, rbe_file: Path, checkpoint: Path, output: Path) -> None:
    blocks = rbe_file.stat().st_size // 2 // 512
    command = ["compress", checkpoint, output, "--force", "-q"]
    process = start(*command, before=f"ulimit -f {blocks}")
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert err.startswith(f"rbe: cannot write {output}")
    assert err.endswith(": File too large\n")
    assert is_untouched(output)


@pytest.mark.parametrize(
    ("flag", "old"), [("--logits", NPY_START + b" old"), ("--hidden", NPZ_START + b" old")]
)
def test_a_full_disk_under_arrays(
    start: Start, rbe_file: Path, output: Path, flag: str, old: bytes
) -> None:
    output.write_bytes(old)
    process = start("run", rbe_file, "The", flag, output, "--force", before="ulimit -f 1")
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1] == f"rbe: cannot write {output}: File too large"
    assert is_untouched(output, old)


def test_ctrl_c_during_bench_keeps_its_rows(start: Start) -> None:
    process = start("bench", "--shape", "1x2x8", "--shape", "64x512x256", "--format", "csv")
    assert process.stdout is not None
    head, first = process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert head.startswith("op,variant,shape,median_seconds")
    assert first.startswith("layernorm,fused,1x2x8,")
    assert all(row.count(",") == head.count(",") for row in rest.splitlines())
    assert err.endswith("interrupted\n")
