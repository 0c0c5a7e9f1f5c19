"""Print one table: `python -m benchmarks.cuda`."""

import argparse
import json
import secrets
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rbe_cli.cuda.device import check_device, is_simulated
from rbe_cli.errors import UsageError


def main(arguments: list[str] | None = None) -> int:
    """Check and time; return 2 without a GPU, and 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the random inputs; a new one by default")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    given = parser.parse_args(arguments)
    try:
        check_device()
    except UsageError as error:
        print(str(error).replace("`backend` cuda", "this benchmark"), file=sys.stderr)
        return 2
    from benchmarks.cuda.checks import all_checks
    from benchmarks.cuda.timings import all_timings

    seed = secrets.randbits(32) if given.seed is None else given.seed
    print(f"seed {seed}")
    # The widest that fit registers, and those that do not, forward and backward.
    size = (2, 6) if is_simulated() else (70, 770, (4096, 7168, 8192))
    checks = []
    for check in all_checks(np.random.default_rng(seed), *size):
        checks.append(check)
        verdict = "ok" if check.passed else "WRONG"
        print(f"{check.name:<46} {check.error:>10.2e}  at most {check.limit:.0e}  {verdict}")
    passed = all(check.passed for check in checks)
    timings = []
    for timing in all_timings() if passed and not is_simulated() else ():
        timings.append(timing)
        rate, tokens_rate = timing.gbytes_per_second, timing.tokens_per_second
        shown = f"{rate:>10.1f} GB/s" if rate is not None else f"{tokens_rate:>10.1f} tokens/s"
        print(f"{timing.name:<46} {1e6 * timing.seconds:>10.1f} us {shown}", flush=True)
    if given.json is not None:
        record = {
            "seed": seed,
            "simulated": is_simulated(),
            "checks": [asdict(check) | {"passed": check.passed} for check in checks],
            "timings": [asdict(timing) for timing in timings],
        }
        given.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
