"""`python -m fuzz`: read mutated inputs of all kinds, or replay one of them."""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from fuzz.draws import Draws
from fuzz.fuzz_supervisor import FuzzRun
from fuzz.fuzz_tally import Failure, as_json, as_table
from fuzz.fuzz_worker import whole_verdict
from fuzz.kinds import FAILED
from fuzz.promises import refuse_warnings
from fuzz.registry_of_kinds import BROKEN, KINDS, kind_named
from fuzz.scratch import RUN_FOLDER, parent_folder

FOUND = Path(__file__).parent / "found"


def main() -> int:
    """Return 1 if a promise was broken, else 0."""
    options = _options()
    if options.seed is not None:
        return _replay(options.kinds[0], options.seed, options.save)
    return _fuzz(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seed", type=int, help="replay this case of one kind")
    parser.add_argument("--save", metavar="NAME", help="keep the case in found/ under this name")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a run")
    parser.add_argument("--first", type=int, help="the first seed of a run")
    parser.add_argument("--count", type=int, help="cases of each kind and worker at most")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="a file for the figures, rewritten each minute")
    options = parser.parse_args()
    options.kinds = options.kinds or list(KINDS)
    if unknown := set(options.kinds) - KINDS.keys() - {BROKEN.name}:
        parser.error(f"there is no kind {sorted(unknown)[0]}")
    if options.seed is not None and len(options.kinds) != 1:
        parser.error("--seed needs one kind")
    return options


def _replay(name: str, seed: int, save: str | None) -> int:
    """Make and read one case, and say what becomes of it."""
    refuse_warnings()
    kind = kind_named(name)
    case = kind.case(Draws(seed))
    text = repr(case)
    print(
        f"{name} {seed}: {kind.size(case)} bytes: {text[:3000]}{'...' if len(text) > 3000 else ''}"
    )
    if save is not None:
        path = FOUND / name / f"{save}.case"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(msgspec.msgpack.encode(case))
        print(f"saved as {path}")
    verdict = whole_verdict(kind, case)
    print(verdict.name, verdict.fault)
    return int(verdict.name == FAILED)


def _fuzz(options: argparse.Namespace) -> int:
    """Read cases for some time, and print the figures."""
    first = int.from_bytes(os.urandom(5), "little") if options.first is None else options.first
    run = FuzzRun(options.kinds, first, options.workers, options.count, options.seconds)
    start = time.monotonic()
    facts = {"first_seed": first, "workers": options.workers, "python": platform.python_version()}

    def tell(failure: Failure) -> None:
        print(f"{failure.kind} --seed {failure.seed}: {failure.fault[-1500:]}", flush=True)

    def save() -> None:
        if options.json is not None:
            seconds = round(time.monotonic() - start, 1)
            figures = as_json(run.tallies, run.failures, {**facts, "seconds": seconds})
            options.json.write_text(json.dumps(figures, indent=1))

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="rbe-fuzz-", dir=parent_folder()) as folder:
        os.environ[RUN_FOLDER] = folder
        try:
            run.run(tell, save)
        except KeyboardInterrupt:
            print("interrupted")
    save()
    print(as_table(run.tallies))
    total = sum(own.inputs for own in run.tallies.values())
    seconds = time.monotonic() - start
    print(f"{total:,} inputs in {seconds:.0f} s, seeds from {first} on")
    for signature, count in run.failures.counts.most_common():
        print(f"{count} times {signature}")
    if run.failures.kept:
        print("replay a case: PYTHONPATH=tests python -m fuzz KIND --seed SEED")
    return int(bool(run.failures.counts))


if __name__ == "__main__":
    sys.exit(main())
