"""Report the points as a table, as JSON and as a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers.measure import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS = "rbe"  # the plot draws this scheme thick
OURS_TUNED = "rbe, tuned"
_COLOURS = {OURS: "black", OURS_TUNED: "dimgrey"}
COLUMNS = (
    "scheme",
    "rate",
    "bits a weight: matrices",
    "whole model",
    "output error",
    "KL, nats a token",
    "perplexity",
)


@dataclass(frozen=True)
class Conditions:
    """Say what all points were measured on.

    Attributes:
        source: the checkpoint.
        predictions: tokens that were predicted.
        context: tokens of the longest window.
        perplexity: of the original, in float32.
        calibration: the calibration text's description.
    """

    source: str
    predictions: int
    context: int
    perplexity: float
    calibration: str

    def __str__(self) -> str:
        return (
            f"{Path(self.source).name}: {self.predictions} predictions in windows of "
            f"{self.context} tokens, float32 perplexity {self.perplexity:.2f}, "
            f"calibration on {self.calibration}"
        )


def heading() -> str:
    """Return the head of the Markdown table."""
    return f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def row(point: Point) -> str:
    """Return one row of the Markdown table."""
    cells = (
        point.scheme,
        point.rate,
        f"{point.matrix_bits:.2f}",
        f"{point.model_bits:.2f}",
        "-" if point.output_error is None else f"{point.output_error:.4f}",
        f"{point.kl_divergence:.5f}",
        f"{point.perplexity:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def write_json(path: Path, conditions: Conditions, points: Sequence[Point]) -> None:
    content = asdict(conditions) | {"points": [asdict(point) for point in points]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def draw(path: Path, conditions: Conditions, points: Sequence[Point]) -> None:
    """Draw a PNG of KL over bits a weight: of the matrices (left), and of the model (right)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_curves(left, points, "matrix_bits")
    _draw_curves(right, points, "model_bits")
    left.set_xlabel("bits a weight of the quantised matrices")
    right.set_xlabel("bits a weight of the whole model")
    left.set_ylabel("KL(float32 || compressed), nats a token")
    right.legend()
    figure.suptitle(str(conditions), fontsize="medium")
    figure.savefig(path, dpi=120, format="png")


def _draw_curves(axes: "Axes", points: Sequence[Point], size: str) -> None:
    """Draw one line a scheme, over an attribute of its points."""
    markers = "osD^v<>PX"
    for index, scheme in enumerate(dict.fromkeys(point.scheme for point in points)):
        line = [point for point in points if point.scheme == scheme]
        line.sort(key=attrgetter(size))
        axes.semilogy(
            [getattr(point, size) for point in line],
            [point.kl_divergence for point in line],
            marker=markers[index],
            color=_COLOURS.get(scheme),
            linewidth=3 if scheme in _COLOURS else 1.5,
            label=scheme,
        )
    axes.grid(alpha=0.3)
