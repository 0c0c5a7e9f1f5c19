"""Run the benchmark's command line: `python -m benchmarks.engines --help`."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.engines import speed_plot, speed_report
from benchmarks.engines.check import CHECKED_BITS, check_logits
from benchmarks.engines.contestant import Contestant, EngineSubject, run_json
from benchmarks.engines.divergences import divergence
from benchmarks.engines.peer import Peer
from benchmarks.engines.peers import MODULES
from benchmarks.engines.rbe_engine import Rbe
from benchmarks.engines.speed_rows import OURS, Row
from rbe_cli.bench.machine_info import this_machine
from rbe_cli.errors import OutputError, RbeError, UsageError
from rbe_cli.runtime.instruction_sets import available, chosen

ENGINES = (OURS, *MODULES)
UNRULY = "onnxruntime"  # uses the fastest instructions that there are, whatever it is told


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
    found.add_argument(
        "--variants", type=lambda text: text.split(","), metavar="NAME,...", help="default: all"
    )
    found.add_argument("--python", default=sys.executable, help="interpreter with the peers")
    found.add_argument("--work", type=Path, metavar="FOLDER", help="keeps what is built")
    found.add_argument("--json", type=Path, metavar="FILE")
    found.add_argument("--plot", type=Path, metavar="FILE.png", help="needs matplotlib")
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
    if arguments.plot and find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'rbe-cli[bench]'")
    contestants = installed(arguments)
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(TemporaryDirectory()))
        subject = prepare(arguments.model, work.absolute(), arguments.seed)
        rows = make_rows(contestants, subject, arguments.variants)
        measure(rows, subject, arguments.rounds)
    found = [row for _, row in rows]
    speed_report.show(found, Console(width=speed_report.WIDTH))
    conditions = {
        "source": Path(subject.source).name,
        "instructions": chosen().value,
        "machine": asdict(this_machine(arguments.threads)),
    }
    try:
        if arguments.json:
            speed_report.write_json(arguments.json, conditions, found)
        if arguments.plot:
            speed_plot.draw(arguments.plot, Path(subject.source).name, found)
    except OSError as error:
        raise OutputError(f"a report cannot be written: {error}") from error


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
        if name == UNRULY and chosen() is not available()[0]:
            print(f"{name}: cannot be held to {chosen().value}", file=sys.stderr)
            continue
        contestant = make_contestant(name, arguments.python, arguments.threads)
        if contestant.is_installed():
            found.append(contestant)
        else:
            print(f"{name}: not installed", file=sys.stderr)
    if not found:
        raise UsageError("there is no engine to measure (docs/results.md)")
    return found


def make_contestant(name: str, python: str, threads: int) -> Contestant:
    return Rbe(threads) if name == OURS else Peer(name, python, threads)


def make_rows(
    contestants: Sequence[Contestant], subject: EngineSubject, wanted: Sequence[str] | None
) -> list[tuple[Contestant, Row]]:
    """Build the variants wanted, and check those with enough bits; nothing is measured yet.

    Raises:
        UsageError: no engine has a variant of such a name.
    """
    known = {variant for contestant in contestants for variant in contestant.variants}
    for name in wanted or ():
        if name not in known:
            raise UsageError(
                f"no engine has a variant {name!r}; there are {', '.join(sorted(known))}"
            )
    rows = []
    for contestant in contestants:
        for variant, bits in contestant.variants.items():
            if wanted and variant not in wanted:
                continue
            print(f"building {contestant.name} {variant}", file=sys.stderr)
            contestant.build(subject, variant)
            checked = bits >= CHECKED_BITS
            cosine = check_logits(contestant, subject, variant) if checked else None
            kl_divergence = divergence(contestant.name, variant)
            row = Row(contestant.name, variant, bits, cosine, kl_divergence, [])
            rows.append((contestant, row))
    return rows


def measure(rows: Sequence[tuple[Contestant, Row]], subject: EngineSubject, rounds: int) -> None:
    """Fill the rows, all of them once in each round."""
    for index in range(rounds):
        for contestant, row in rows:
            print(f"round {index + 1} of {rounds}: {row.name}", file=sys.stderr)
            row.rounds.append(contestant.measure(subject, row.variant))


if __name__ == "__main__":
    main()
