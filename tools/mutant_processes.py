"""Run tests against mutants, each in a child process, so that a change ends with its process."""

import functools
import gc
import importlib
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from math import ceil
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import pytest

_Cached = functools._lru_cache_wrapper
_MEMORY = 4 << 30  # bytes that a child may take beyond those of its parent
_WAIT = 600.0  # seconds for a child that sleeps; one that computes is ended by its CPU time
# What the package and its tests import from elsewhere, and what takes time to import.
_IMPORTS = (
    "hypothesis.extra.numpy", "huggingface_hub", "msgspec", "numba", "safetensors", "tokenizers",
    "typer",
)  # fmt: skip


class Verdict(NamedTuple):
    """Say whether the tests noticed a mutant, and what ended them: a test, time or a signal."""

    is_killed: bool
    by: str


def in_child(action: Callable[[], str], seconds: float) -> Verdict:
    """Run an action in a child: it returns the name of the test that failed, or an empty text.

    Args:
        action: is run in the child.
        seconds: of CPU time that it may take.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _run_and_exit(action, seconds, writing)
    os.close(writing)
    is_done = bool(select.select([reading], [], [], _WAIT)[0])
    name = os.read(reading, 4096).decode() if is_done else "time"
    os.close(reading)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not name and os.WIFSIGNALED(status):
        name = f"signal {os.WTERMSIG(status)}"
    return Verdict(name != "-", name)


def _run_and_exit(action: Callable[[], str], seconds: float, writing: int) -> None:
    """Run the action of a child, and tell its result by a pipe, which ends with the process."""
    os.setpgid(0, 0)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (ceil(seconds), ceil(seconds)))
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    try:
        result = action() or "-"
    except BaseException as error:
        result = repr(error)
    os.write(writing, result.encode()[:4096])
    os.kill(os.getpid(), signal.SIGKILL)  # nothing is flushed, closed or removed twice


class _Failure:
    """Remember the first test that fails."""

    name = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid


class _Quick:
    """Let Hypothesis try the examples of every day, and not look for the smallest that fails."""

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        usual, phases = settings.get_profile("quick"), [Phase.explicit, Phase.generate]
        settings.register_profile("mutants", usual, phases=phases)
        settings.load_profile("mutants")


def _pytest(paths: Iterable[str], *plugins: object) -> None:
    options = ["-q", "--tb=no", "--no-cov", "-o", "faulthandler_timeout=0", "-o", "timeout=0"]
    loaded = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins that are imported early
    pytest.main([*options, *loaded, *paths], [_Quick(), *plugins])


class _InSession:
    """Stand for the next test, of which only the session is known: its fixtures stay."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session

    def listchain(self) -> list[Any]:
        return [self._session]


class WarmTests:
    """Hold collected tests, which have run once, in a process that forks for each mutant.

    Attributes:
        seconds: of CPU time that each test took, by its name.
    """

    def __init__(
        self, names: set[str], known: Mapping[str, float], work: Callable[["WarmTests"], None]
    ) -> None:
        """Collect the tests of some names; `work` is called when they have run.

        Those whose seconds are `known` have passed before, and are not run again.
        """
        self.seconds = {name: seconds for name, seconds in known.items() if name in names}
        self._names = names
        self._work = work
        self._failure = _Failure()
        self._functions: dict[tuple[str, str, int], list[FunctionType]] = {}
        self._caches: list[Any] = []

    def run(self) -> None:
        """Run the tests, and then the work."""
        _pytest(sorted({name.partition("::")[0] for name in self._names}), self, self._failure)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the tests that are asked for."""
        items[:] = [item for item in items if item.nodeid in self._names]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests, then the work."""
        self._items = {item.nodeid: item for item in session.items}
        for item in session.items:
            if item.nodeid in self.seconds:
                continue
            started = time.process_time()
            self._run_test(item)
            if self._failure.name:
                raise SystemExit(f"{item.nodeid} fails without any mutant")
            self.seconds[item.nodeid] = time.process_time() - started
        self._find_functions()
        gc.collect()
        gc.freeze()
        self._work(self)
        return True

    def _run_test(self, item: pytest.Item) -> None:
        """Run a test, and leave the fixtures of the session as they are."""
        following = _InSession(item.session)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    def _find_functions(self) -> None:
        for own in gc.get_objects():
            if isinstance(own, FunctionType):
                self._functions.setdefault(_place(own.__code__), []).append(own)
            elif isinstance(own, _Cached) and str(own.__module__).startswith("rbe_cli"):
                self._caches.append(own)

    def try_mutant(
        self, code: CodeType, function: str, tests: Sequence[str], seconds: float
    ) -> Verdict | None:
        """Run tests with other code in a function of a module; None if it is not to be found."""
        changes = []
        for before in _functions_in(code):
            if before.co_qualname == function:
                changes += [(own, before) for own in self._functions.get(_place(before), ())]
        if not changes:
            return None
        return in_child(lambda: self._run_changed(changes, tests), seconds)

    def _run_changed(
        self, changes: Sequence[tuple[FunctionType, CodeType]], tests: Sequence[str]
    ) -> str:
        for function, code in changes:
            function.__code__ = code
        for cache in self._caches:
            cache.cache_clear()
        for name in tests:
            self._run_test(self._items[name])
            if self._failure.name:
                break
        return self._failure.name


def _place(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _functions_in(code: CodeType) -> Iterable[CodeType]:
    """Yield the code of a module's functions and methods."""
    for own in code.co_consts:
        if isinstance(own, CodeType):
            yield own
            if own.co_qualname == own.co_name or "<locals>" not in own.co_qualname:
                yield from _functions_in(own)


class ColdTests:
    """Run tests in children that import the package anew, with one of its modules changed."""

    def __init__(self) -> None:
        for name in _IMPORTS:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()

    def try_mutant(
        self, module: str, code: CodeType, tests: Sequence[str], seconds: float
    ) -> Verdict:
        """Run tests, in their order, with other code in a module."""
        return in_child(lambda: self._run(module, code, tests), seconds)

    def _run(self, module: str, code: CodeType, tests: Sequence[str]) -> str:
        sys.meta_path.insert(0, _Finder(module, code))
        failure, order = _Failure(), _Order(tests)
        files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
        _pytest(["-x", *files], order, failure)
        if not failure.name and not order.is_complete:
            return "the tests cannot be collected"
        return failure.name


class _Order:
    """Run some of the collected tests, in an order of our own."""

    is_complete = False

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_name = {item.nodeid: item for item in items}
        items[:] = [by_name[name] for name in self._names if name in by_name]
        self.is_complete = len(items) == len(self._names)


class _Finder:
    """Give a module other code when it is imported."""

    def __init__(self, module: str, code: CodeType) -> None:
        self._module = module
        self._code = code

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != self._module:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader.get_code = lambda _: self._code  # type: ignore[union-attr]
        return spec
