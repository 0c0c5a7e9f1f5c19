"""Measure KL divergence over size: whether a larger file ever loses more.

`python -m benchmarks.sweep SOURCE` compresses a checkpoint at 1, 1.5, ... 12 bits a weight and to
sizes from a twentieth to twice the original, prints a Markdown table, and exits with 1 if the KL
divergence rises with the rate, or with the size, by more than `FLOOR`.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

from rbe_cli.cli.app import run
from rbe_cli.compression.open_source import open_source

RATES = [number / 2 for number in range(2, 25)]
SHARES = [1 / 20, 1 / 10, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 3 / 4, 1.0, 1.5, 2.0]  # of the original
FLOOR = 1e-6  # nats a token: what the rounding of logits to float32 alone may give


def measure(source: str, arguments: list[str]) -> dict[str, float] | str:
    """Return a compression's figures, or the sentence with which it was refused."""
    out, err = io.StringIO(), io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        file = str(Path(folder) / "out.rbe")
        code = run(["compress", source, file, *arguments, "--format", "json", "-q"])
    if code:
        message: str = json.loads(err.getvalue().splitlines()[-1])["error"]["message"]
        return message
    found = json.loads(out.getvalue())
    names = "file_bytes", "bits_per_weight"
    return {name: found[name] for name in names} | {"kl": found["quality"]["kl_divergence"]}


def series(source: str, asked: list[tuple[str, list[str]]]) -> list[str]:
    """Print a row for each target, (what it is called, its options); return those that rise.

    The targets grow.
    """
    least, rises = float("inf"), []
    for label, arguments in asked:
        found = measure(source, arguments)
        if isinstance(found, str):
            print(f"| {label} | {found} | | |", flush=True)
            continue
        kl, bits = found["kl"], found["bits_per_weight"]
        print(f"| {label} | {found['file_bytes']:,.0f} | {bits:.3f} | {kl:.3g} |", flush=True)
        if kl > least + FLOOR:
            rises.append(label)
        least = min(least, kl)
    return rises


def main() -> int:
    """Print the table; return 1 if a larger rate or a larger size loses more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--calib-samples", default="16")
    options = parser.parse_args()
    common = ["--calib-samples", options.calib_samples]
    original = open_source(options.source, offline=True).weight_bytes
    rates = [(f"{own:g} bits", ["--target-bpw", f"{own:g}", *common]) for own in RATES]
    sizes = [
        (f"{own:.3g} of the original", ["--target-size", str(int(own * original)), *common])
        for own in SHARES
    ]
    print("| asked | bytes | bits a weight | KL divergence |\n|---|---|---|---|")
    rises = [*series(options.source, rates), *series(options.source, sizes)]
    print(f"\nrises: {', '.join(rises) or 'never'}")
    return 1 if rises else 0


if __name__ == "__main__":
    sys.exit(main())
