"""Child processes and threads that cannot run for ever: every wait in a test has a deadline."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

# Far more than any test needs, even where kernels have to be compiled on a busy machine: it is
# there to end a test that hangs, not to measure speed.
SECONDS = 200


def run_python(code: str, *arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run `code` in a Python process of its own and return it with its output, as text.

    Raises:
        subprocess.TimeoutExpired: it has not ended within `SECONDS`; it has been killed.
    """
    command = [sys.executable, "-c", code, *map(str, arguments)]
    defaults = {"capture_output": True, "text": True, "timeout": SECONDS}
    return subprocess.run(command, **defaults | options)


@contextmanager
def started(
    command: Sequence[object], seconds: float = SECONDS, **options: Any
) -> Iterator["subprocess.Popen[str]"]:
    """Start a process, and kill it when the block is left or `seconds` have passed.

    The process leads a group of its own, and its children are killed with it. So reading from
    its pipes and waiting for it need no deadlines of their own: both end when it is killed.
    """
    with subprocess.Popen(
        [*map(str, command)], text=True, start_new_session=True, **options
    ) as process:

        def kill() -> None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            kill()


def run_together(tasks: Sequence[Callable[[], object]]) -> None:
    """Run each task in a thread of its own, all at once, and wait until all have ended.

    An exception in a thread fails the test by pytest's own means.

    Raises:
        TimeoutError: one has not ended within `SECONDS`.
    """
    # Threads of a pool would be waited for when Python exits; these are not.
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        if thread.is_alive():
            raise TimeoutError(f"{thread.name} still runs")
