"""Draw quality over speed and over memory.

Speed and bytes are those of the rows, usually a random model of GPT-2's shape. KL is that of the
same variants of `english-6m` (divergences.py).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.engines.speed_rows import Row, decode

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEGABYTE = 1e6


def draw(path: Path, model: str, rows: Sequence[Row]) -> None:
    """Draw a PNG of KL over tokens a second (left) and over the bytes that a token reads (right).

    Args:
        path: of the PNG.
        model: whose speed was measured.
        rows: those whose KL is known are drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_points(left, rows, lambda row: row.spread(decode).median)
    _draw_points(right, rows, lambda row: row.read_bytes / MEGABYTE)
    left.set_xlabel(f"decoded tokens a second, {model}")
    right.set_xlabel(f"MB that decoding a token reads, {model}")
    left.set_ylabel("KL(float32 || compressed), nats a token, english-6m")
    if left.lines:
        left.legend()
    figure.savefig(path, dpi=120, format="png")


def _draw_points(axes: "Axes", rows: Sequence[Row], value: Callable[[Row], float]) -> None:
    """Draw one colour an engine, each point with its variant's name."""
    for engine in dict.fromkeys(row.engine for row in rows):
        found = [row for row in rows if row.engine == engine and row.kl_divergence is not None]
        if not found:
            continue
        axes.loglog(
            [value(row) for row in found],
            [row.kl_divergence for row in found],
            marker="o",
            linestyle="none",
            color="black" if found[0].is_ours else None,
            label=engine,
        )
        for row in found:
            axes.annotate(
                row.variant,
                (value(row), row.kl_divergence or 0.0),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize="small",
            )
    axes.grid(alpha=0.3, which="both")
