"""Let every call of every scenario fail in every way: `make faults`."""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from faults.fault_bench import FaultBench
from faults.fault_scenarios import SCENARIOS
from faults.guarantees import Findings, check_scenario
from faults.libc_faults import is_loaded, run_with_libc_faults


def main() -> int:
    """Run the scenarios that are named, or all; return 1 if a guarantee was broken."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="of scenarios; all unless given")
    parser.add_argument("--libc", action="store_true", help="fail calls of the C library (gcc)")
    parser.add_argument("--most", type=int, default=10**9, help="cases of a scenario")
    options = parser.parse_args()
    findings, started = Findings(), time.monotonic()
    with TemporaryDirectory() as home:
        if options.libc and not is_loaded():
            return run_with_libc_faults(Path(home))
        bench = FaultBench(Path(home))
        for scenario in SCENARIOS:
            if not options.names or scenario.name in options.names:
                check_scenario(bench, scenario, findings, options.most)
                print(f"{scenario.name}: {sum(findings.runs.values())} runs so far", flush=True)
    for problem in findings.broken:
        print(problem)
    counts = ", ".join(f"{count} x {fault}" for fault, count in sorted(findings.runs.items()))
    print(f"{sum(findings.runs.values())} runs: {counts}")
    print(f"{findings.power_cuts} power cuts, {len(findings.broken)} broken guarantees")
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main())
