"""Threads for coarse tasks: whole batches, blocks or matrices, each computed by one thread.

numpy's BLAS is held to one thread meanwhile: its own threads would contend with these, and
its results could depend on their number.
"""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from rbe_cli.kernels.cpus import default_threads


@contextmanager
def workers(threads: int | None) -> Iterator[Executor]:
    """An executor of `threads`, by default the physical cores.

    Leaving by an exception (Ctrl-C, say) cancels what waits, and does not wait for what runs.
    """
    with threadpool_limits(1, user_api="blas"):
        executor = ThreadPoolExecutor(threads or default_threads())
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        executor.shutdown()
