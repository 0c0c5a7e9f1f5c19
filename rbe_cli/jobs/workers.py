"""Run coarse tasks side by side: whole batches, blocks or matrices, one thread for each.

numpy's BLAS is held to one thread during that time: its own threads would contend with these, and
its results could depend on their number.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from threadpoolctl import threadpool_limits

from rbe_cli.errors import NotFoundError, UsageError
from rbe_cli.runtime.cpus import default_threads
from rbe_cli.runtime.thread_team import Team, get_team

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")
Value = TypeVar("Value")
_CONNECT_SECONDS = 10


def _itself(value: Value) -> Value:
    return value


@dataclass(frozen=True)
class Workers:
    """Run tasks on any executor: this process's threads, or a cluster's.

    A task is a function of a module and its arguments, which an executor may pickle.

    Attributes:
        executor: runs them.
        jobs: tasks at once.
        shared: returns what stands for a value in the arguments of several tasks. A cluster sends
            the value to each of its processes once, instead of with each task.
    """

    executor: Executor
    jobs: int
    shared: Callable[[Any], Any] = _itself

    @property
    def team(self) -> Team:
        """Return as many threads of this process, for a program that runs while no task does."""
        return get_team(self.jobs)

    @contextmanager
    def on_this_machine(self) -> Iterator["Workers"]:
        """Yield workers that see this process's memory and files: threads of it."""
        if isinstance(self.executor, ThreadPoolExecutor):
            yield self
        else:
            with workers() as threads:
                yield threads

    def map(
        self, function: Callable[..., Result], *arguments: Iterable[object], ahead: int = 2
    ) -> Iterator[Result]:
        """Yield `function` of each tuple of arguments; end with the shortest of their iterables."""
        return self.starmap(function, zip(*arguments, strict=False), ahead)

    def starmap(
        self,
        function: Callable[..., Result],
        arguments: Iterable[tuple[object, ...]],
        ahead: int = 2,
    ) -> Iterator[Result]:
        """Yield results in the order of the arguments.

        Arguments are taken as tasks begin, and only `ahead` times as many tasks as run at once
        are begun ahead of the result that is waited for: neither all arguments nor all results
        need fit in memory. Large results want 1, small ones keep all threads busy with 2.
        """
        waiting: deque[Future[Result]] = deque()
        for values in arguments:
            if len(waiting) == ahead * self.jobs:
                yield waiting.popleft().result()
            waiting.append(self.executor.submit(function, *values))
            del values
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def workers(jobs: int | None = None) -> Iterator[Workers]:
    """Yield threads of this process; `jobs` is by default the physical cores.

    Leaving by an exception (Ctrl-C, say) cancels what waits, and does not wait for what runs.
    """
    jobs = jobs or default_threads()
    with threadpool_limits(1, user_api="blas"):
        executor = ThreadPoolExecutor(jobs)
        try:
            yield Workers(executor, jobs)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        executor.shutdown()


@contextmanager
def cluster(address: str, jobs: int | None = None) -> Iterator[Workers]:
    """Yield a Dask cluster's workers (the extra `dask`); `jobs` is by default their threads.

    Args:
        address: address of the scheduler, such as `tcp://10.0.0.1:8786`.
        jobs: tasks at once.

    Raises:
        UsageError: Dask is not installed.
        NotFoundError: no scheduler answers, or it has no workers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("`cluster` needs Dask: pip install 'rbe-cli[dask]'") from error
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise NotFoundError(f"no Dask scheduler answers at {address}") from error
    with client, threadpool_limits(1, user_api="blas"):
        threads = sum(client.nthreads().values())
        if not threads:
            raise NotFoundError(f"the Dask cluster at {address} has no workers")
        client.run(_one_blas_thread)
        # Dask may run a task again after a worker is lost, which is safe: tasks have no effects.
        yield Workers(client.get_executor(pure=False), jobs or threads, partial(_sent, client))


def _sent(client: "Client", value: object) -> object:
    """Send a value to a process of a cluster; others fetch it from there when they need it."""
    return client.scatter(value, hash=False)


def _one_blas_thread() -> None:
    threadpool_limits(1, user_api="blas")
