"""Numba's threads: how many, which layer, and how a parallel kernel is started.

The layer is OpenMP, else TBB: both let two Python threads start kernels at once. Where
neither can be loaded, Numba's own work queue is left, which then aborts the process; a
lock keeps its kernels one after another.
"""

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import numba
from numba.np.ufunc.parallel import threading_layer

from rbe_cli.errors import UsageError
from rbe_cli.kernels.cpus import default_threads

_ONE_AT_A_TIME = threading.Lock()
_MIN_PARALLEL_WORK = 1 << 18  # multiplications; below, waking a thread costs more than it saves


@dataclass(frozen=True)
class Launcher:
    """Starts parallel kernels with a fixed number of threads.

    Attributes:
        threads: at most this many run a kernel.
        guard: held while a kernel runs.
    """

    threads: int
    guard: AbstractContextManager[object]

    def __call__(self, kernel: Callable[..., object], work: int, *arguments: object) -> None:
        """Run `kernel(*arguments)`; small `work` (multiplications) stays on this thread."""
        # Numba keeps the number for each Python thread, so it is set at every launch.
        numba.set_num_threads(self.threads if work >= _MIN_PARALLEL_WORK else 1)
        with self.guard:
            kernel(*arguments)


@cache
def make_launcher(threads: int | None = None) -> Launcher:
    """Choose the thread layer (once a process) and the number of threads.

    Args:
        threads: None for the physical cores this process may use. More than the CPUs it may
            use are lowered to those; results do not depend on the number.

    Raises:
        UsageError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: at least one thread is needed")
    # Waiting threads sleep. Spinning would save microseconds on an idle machine; on a busy
    # one it uses up the thread's share of a CPU, and a token then takes 20 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    config = vars(numba.config)
    config["THREADING_LAYER_PRIORITY"] = ["omp", "tbb", "workqueue"]
    count = min(threads or default_threads(), config["NUMBA_NUM_THREADS"])
    numba.set_num_threads(count)  # loads the layer
    loaded_layer: Callable[[], str] = threading_layer
    is_safe = loaded_layer() in ("omp", "tbb")
    return Launcher(count, nullcontext() if is_safe else _ONE_AT_A_TIME)
