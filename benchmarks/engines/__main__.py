"""Run the benchmark's command line: `python -m benchmarks.engines --help`."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.engines import speed_report
from benchmarks.engines.check import CHECKED_BITS, check_logits
from benchmarks.engines.contestant import Contestant, EngineSubject, run_json
from benchmarks.engines.peer import Peer
from benchmarks.engines.peers import MODULES
from benchmarks.engines.rbe_engine import Rbe
from rbe_cli.bench.machine_info import this_machine
from rbe_cli.errors import OutputError, RbeError, UsageError

ENGINES = (speed_report.OURS, *MODULES)


def main(command_line: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(command_line)
    try:
        run(arguments)
    except RbeError as error:
        print(f"engines: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.engines",
        description="Speed of rbe beside other engines, on one GPT-2.",
    )
    found.add_argument("--model", metavar="SOURCE", help="default: a random GPT-2 of 124M")
    found.add_argument("--seed", type=int, default=0, help="of the random model")
    found.add_argument("--rounds", type=positive, default=5)
    found.add_argument("--threads", type=positive, default=2)
    found.add_argument(
        "--engines", type=engine_names, default=ENGINES, help=f"default: {','.join(ENGINES)}"
    )
    found.add_argument("--python", default=sys.executable, help="interpreter with the peers")
    found.add_argument("--work", type=Path, metavar="FOLDER", help="keeps what is built")
    found.add_argument("--json", type=Path, metavar="FILE")
    return found


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def engine_names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in ENGINES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(ENGINES)}")
    return names


def run(arguments: argparse.Namespace) -> None:
    """Build, check and measure every engine that is there; print the report."""
    contestants = installed(arguments)
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(TemporaryDirectory()))
        subject = prepare(arguments.model, work.absolute(), arguments.seed)
        rows = make_rows(contestants, subject)
        measure(rows, subject, arguments.rounds)
    found = [row for _, row in rows]
    speed_report.show(found, Console(width=speed_report.WIDTH))
    if arguments.json:
        conditions = {
            "source": Path(subject.source).name,
            "machine": asdict(this_machine(arguments.threads)),
        }
        try:
            speed_report.write_json(arguments.json, conditions, found)
        except OSError as error:
            raise OutputError(f"the report cannot be written: {error}") from error


def prepare(source: str | None, work: Path, seed: int) -> EngineSubject:
    """Make the checkpoint and the reference's logits, in a process of its own."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--work cannot be used: {error}") from error
    sources = [] if source is None else [source]
    command = [sys.executable, "-m", "benchmarks.engines.prepare", str(work), str(seed), *sources]
    found = run_json(command)
    return EngineSubject(found["source"], Path(found["folder"]), found["vocab_size"])


def installed(arguments: argparse.Namespace) -> list[Contestant]:
    """Return the engines asked for that are installed, and name the others on stderr.

    Raises:
        UsageError: there is none.
    """
    found = []
    for name in arguments.engines:
        contestant = make_contestant(name, arguments.python, arguments.threads)
        if contestant.is_installed():
            found.append(contestant)
        else:
            print(f"{name}: not installed", file=sys.stderr)
    if not found:
        raise UsageError("there is no engine to measure (docs/results.md)")
    return found


def make_contestant(name: str, python: str, threads: int) -> Contestant:
    return Rbe(threads) if name == speed_report.OURS else Peer(name, python, threads)


def make_rows(
    contestants: Sequence[Contestant], subject: EngineSubject
) -> list[tuple[Contestant, speed_report.Row]]:
    """Build every variant, and check those with enough bits; nothing is measured yet."""
    rows = []
    for contestant in contestants:
        for variant, bits in contestant.variants.items():
            print(f"building {contestant.name} {variant}", file=sys.stderr)
            contestant.build(subject, variant)
            checked = bits >= CHECKED_BITS
            cosine = check_logits(contestant, subject, variant) if checked else None
            rows.append((contestant, speed_report.Row(contestant.name, variant, bits, cosine, [])))
    return rows


def measure(
    rows: Sequence[tuple[Contestant, speed_report.Row]], subject: EngineSubject, rounds: int
) -> None:
    """Fill the rows, all of them once in each round."""
    for index in range(rounds):
        for contestant, row in rows:
            print(f"round {index + 1} of {rounds}: {row.name}", file=sys.stderr)
            row.rounds.append(contestant.measure(subject, row.variant))


if __name__ == "__main__":
    main()
