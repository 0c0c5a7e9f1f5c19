"""Measure every preset on one checkpoint, as a Markdown table: size, quality and speed.

    python benchmarks/presets.py demo
    python benchmarks/presets.py FOLDER --text HELD_OUT.txt

Quality is measured on the text given, or else on text that the checkpoint writes and the
codec does not see. Speed is the median of five runs of greedy generation.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rbe_cli.compression.settings import preset_names

HEADER = ("preset", "bits per weight", "file", "KL, nats a token", "perplexity", "tokens/s")
PROMPT, TOKENS, RUNS = "The", 200, 5


def rbe(*arguments: str) -> dict[str, Any]:
    """Return the JSON that a verb prints."""
    command = [sys.executable, "-m", "rbe_cli", *arguments, "--format", "json", "--quiet"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(source: str, preset: str, text: Path | None, output: Path) -> tuple[str, ...]:
    """Return one row of the table."""
    compressed = rbe("compress", source, str(output), "--preset", preset, "--force")
    quality = compressed["quality"]
    if text:
        quality = rbe("run", str(output), "-f", str(text), "--perplexity", "--reference", source)
    generate = ("generate", str(output), PROMPT, "--greedy", "--max-tokens", str(TOKENS))
    speeds = [rbe(*generate)["decode_tokens_per_second"] for _ in range(RUNS)]
    return (
        f"`{preset}`",
        f"{compressed['bits_per_weight']:.2f}",
        f"{compressed['file_bytes'] / 1e6:.2f} MB, 1/{compressed['ratio']:.1f}",
        f"{quality['kl_divergence']:.5f}",
        f"{quality['perplexity']:.2f} (original {quality['reference_perplexity']:.2f})",
        f"{median(speeds):.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--text", type=Path)
    arguments = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |")
    print("|" + "---|" * len(HEADER))
    presets = preset_names()
    with tempfile.TemporaryDirectory() as folder:
        for preset in presets:
            row = measure(arguments.source, preset, arguments.text, Path(folder) / "model.rbe")
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
