"""Tell which mutants of some modules the tests notice.

    python -m tools.mutation_testing --coverage .coverage --results build/mutants.jsonl PLACE...

The coverage file names the tests that run each line (`pytest --cov --cov-context=test`). Results
are added to a file, from which a later run goes on: a mutant that was killed is not tried again.

A mutant runs the tests that run its lines, until one fails: first those that have killed others of
its function, then those of its module, the fastest first. A process that has run all tests once
forks for each mutant, and the child changes the function's code in place. Mutants of code that runs
before the tests do, when modules are imported or fixtures are made, are tried by a process that
imports the changed module.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash
from coverage import CoverageData

from tools.mutant_processes import ColdTests, Verdict, WarmTests
from tools.mutants import Mutant, MutatedModule
from tools.mutation_scope import is_in_scope, modules_in

_LONGEST = 4.0  # times what the tests of a mutant take without it; it may hang
_PATIENCE = 10.0  # seconds beside that
_UNCHANGED = 600.0  # seconds for the tests of a module that is as it was


class Case(NamedTuple):
    """Hold a mutant of a module.

    Attributes:
        name: of the mutant; it stays when lines move.
        tests: the names of those that run its lines; of all that run the module, if its lines run
            before the tests only; of all in its folder, if the module has no functions.
        is_early: whether its lines also run when modules are imported or fixtures are made.
    """

    module: MutatedModule
    mutant: Mutant
    name: str
    tests: frozenset[str]
    is_early: bool


def find_cases(paths: Iterable[str], coverage_file: str) -> Iterator[Case]:
    """Yield the mutants of modules with the tests that run their lines."""
    data = CoverageData(coverage_file)
    data.read()
    for path in paths:
        module = MutatedModule(str(Path(path).resolve()))
        contexts = data.contexts_by_lineno(module.path)  # line -> ["test|phase", ...]
        everything = _tests(contexts.values()) or frozenset(
            name for name in _tests([data.measured_contexts()]) if _distance(name, module.path) < 2
        )
        counts: Counter[str] = Counter()
        for mutant in module.mutants:
            if not is_in_scope(path, mutant.function):
                continue
            name = f"{path} {mutant.function or '-'}: {mutant.text}"
            counts[name] += 1
            if counts[name] > 1:
                name += f" ({counts[name]})"
            own = [contexts.get(line, []) for line in mutant.lines]
            is_early = not mutant.function or any(
                not context.endswith("|run") for names in own for context in names
            )
            tests = _tests(own) if mutant.function else everything
            if is_early:
                tests = tests or everything
            yield Case(module, mutant, name, tests, is_early)


def _tests(contexts: Iterable[Iterable[str]]) -> frozenset[str]:
    """Return the names of the tests in some contexts."""
    return frozenset(name.rpartition("|")[0] for names in contexts for name in names if name)


class Results:
    """Keep the verdicts in a file, one line of JSON for each; of several the last counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._verdicts: dict[str, Verdict] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                found = json.loads(line)
                self._verdicts[found["mutant"]] = Verdict(found["killed"], found["by"])

    def is_killed(self, case: Case) -> bool:
        """Tell whether a mutant has been killed."""
        return case.name in self._verdicts and self._verdicts[case.name].is_killed

    def of(self, case: Case) -> Verdict | None:
        """Return the verdict on a mutant."""
        return self._verdicts.get(case.name)

    def add(self, case: Case, verdict: Verdict) -> None:
        """Keep a verdict."""
        self._verdicts[case.name] = verdict
        found = {"mutant": case.name, "killed": verdict.is_killed, "by": verdict.by}
        with self._path.open("a") as file:
            file.write(json.dumps(found, ensure_ascii=False) + "\n")

    def kills(self) -> Iterator[tuple[str, str]]:
        """Yield (function, test) of each kill."""
        for name, verdict in self._verdicts.items():
            if verdict.is_killed:
                yield name.partition(": ")[0], verdict.by


class Runner:
    """Try mutants, warm and cold, as the module describes."""

    def __init__(self, results: Results, most_seconds: float) -> None:
        self._results = results
        self._most_seconds = most_seconds
        self._kills = Counter(results.kills())
        self._seconds: dict[str, float] = {}

    def try_warm(self, cases: list[Case], times: Path) -> None:
        """Try what can be changed in place, in a child; `times` receives what each test takes."""
        known = json.loads(times.read_text()) if times.exists() else {}

        def work(tests: WarmTests) -> None:
            self._seconds = tests.seconds
            times.write_text(json.dumps(known | tests.seconds))
            if sample := self._sample(cases):
                case, order = sample
                same = case.module.unchanged()
                _check(tests.try_mutant(same, case.mutant.function, order, _UNCHANGED))
            for number, case in enumerate(cases):
                self._show("warm", number, len(cases))
                order = self._order(case)
                code = case.module.compiled(case.mutant) if order and case.mutant.function else None
                if code is not None:
                    found = tests.try_mutant(code, case.mutant.function, order, self._limit(order))
                    if found is not None and (found.is_killed or not case.is_early):
                        self._add(case, found)

        if os.fork() == 0:
            names = set().union(*(case.tests for case in cases))
            WarmTests(names, known, work).run()
            os._exit(0)
        if os.wait()[1]:
            raise SystemExit("the tests do not pass as they are")

    def try_cold(self, cases: list[Case], times: Path) -> None:
        """Try mutants in processes that import their modules anew."""
        self._seconds = json.loads(times.read_text())
        tests = ColdTests()
        if sample := self._sample(cases):
            case, order = sample
            _check(tests.try_mutant(_module_name(case), case.module.unchanged(), order, _UNCHANGED))
        for number, case in enumerate(cases):
            self._show("cold", number, len(cases))
            order, code = self._order(case), case.module.compiled(case.mutant)
            if code is None:
                continue
            if order:
                name = _module_name(case)
                self._add(case, tests.try_mutant(name, code, order, self._limit(order)))
            else:
                self._add(case, Verdict(False, "no test runs it"))

    def _sample(self, cases: list[Case]) -> tuple[Case, list[str]] | None:
        """Return a mutant of a function, and the first test of each module; None without any."""
        tested = [case for case in cases if case.mutant.function and self._order(case)]
        firsts = {case.module.path: self._order(case)[0] for case in tested}
        return (tested[0], sorted(set(firsts.values()))) if tested else None

    def _order(self, case: Case) -> list[str]:
        """Return the tests of a mutant: first those that killed others, then the nearest ones."""
        function = case.name.partition(": ")[0]
        known = [name for name in case.tests if name in self._seconds]
        known.sort(
            key=lambda name: (
                -self._kills[function, name],
                _distance(name, case.module.path),
                self._seconds[name],
                name,
            )
        )
        chosen: list[str] = []
        total = 0.0
        for name in known:
            total += self._seconds[name]
            if total > self._most_seconds and chosen:
                break
            chosen.append(name)
        return chosen

    def _limit(self, tests: list[str]) -> float:
        return _PATIENCE + _LONGEST * sum(self._seconds[name] for name in tests)

    def _add(self, case: Case, verdict: Verdict) -> None:
        self._results.add(case, verdict)
        if verdict.is_killed:
            self._kills[case.name.partition(": ")[0], verdict.by] += 1

    def _show(self, kind: str, number: int, count: int) -> None:
        if number % 20 == 0:
            print(f"{kind}: {number} of {count}", file=sys.stderr, flush=True)


def _chance(case: Case, seed: int) -> float:
    """Return a number from 0 to 1 that is a mutant's own, so that a larger sample holds it too."""
    return xxhash.xxh3_64_intdigest(case.name.encode(), seed) / 2.0**64


def _distance(test: str, module: str) -> int:
    """Return 0 for a test in the module's own file of tests, 1 for one in its folder, else 2."""
    if f"/test_{Path(module).stem}.py" in test:
        return 0
    folder = Path(module).relative_to(Path.cwd()).parts[1]
    return 1 if test.startswith(f"tests/{folder}/") else 2


def _module_name(case: Case) -> str:
    path = Path(case.module.path).relative_to(Path.cwd())
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _check(unchanged: Verdict | None) -> None:
    """Stop unless tests pass in such a process with a module as it is: else all seem killed."""
    if unchanged is not None and unchanged.is_killed:
        raise SystemExit(f"without any mutant, {unchanged.by} fails")


def report(cases: list[Case], results: Results) -> None:
    """Print what survives, and how many mutants of each module are killed."""
    for case in cases:
        verdict = results.of(case)
        if verdict is None:
            print(f"{case.name}  [not tried]")
        elif not verdict.is_killed:
            print(f"{case.name}  [line {case.mutant.lines.start}] {verdict.by.strip('-')}")
    by_module: dict[str, list[bool]] = {"all": []}
    for case in cases:
        for key in (case.name.partition(" ")[0], "all"):
            by_module.setdefault(key, []).append(results.is_killed(case))
    for key, killed in by_module.items():
        share = sum(killed) / max(len(killed), 1)
        print(f"{sum(killed):6} of {len(killed):6} killed, {share:6.1%}  {key}")


def main() -> None:
    """Try the mutants of some files, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", nargs="+", help="modules, or folders of them")
    parser.add_argument("--coverage", default=".coverage", help="a coverage file with contexts")
    parser.add_argument("--results", type=Path, default=Path("build/mutants.jsonl"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of tests for one mutant")
    parser.add_argument("--share", type=float, default=1.0, help="of the mutants, a random sample")
    parser.add_argument("--seed", type=int, default=0, help="of the sample: another has others")
    parser.add_argument("--report", action="store_true", help="only report")
    options = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    options.results.parent.mkdir(parents=True, exist_ok=True)
    results = Results(options.results)
    found = find_cases(modules_in(options.places), options.coverage)
    chances = [(_chance(case, options.seed), case) for case in found]
    chances.sort(key=lambda pair: pair[0])
    cases = [case for chance, case in chances if chance < options.share]
    if not options.report:
        runner = Runner(results, options.seconds)
        times = options.results.with_suffix(".times")
        runner.try_warm([case for case in cases if not results.is_killed(case)], times)
        results = Results(options.results)
        runner = Runner(results, options.seconds)
        early = [case for case in cases if case.is_early or results.of(case) is None]
        runner.try_cold([case for case in early if not results.is_killed(case)], times)
    report(cases, results)


if __name__ == "__main__":
    main()
