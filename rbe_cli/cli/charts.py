"""Draw charts of results with matplotlib (the extra `plot`)."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbe_cli.container.atomic_file import check_output, new_file
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rbe_cli.bench.bench_run import BenchResult

FORMATS = (".png", ".svg")
_INCH_A_BAR = 0.2
_LEAST_HEIGHT = 2.5  # inches


def check_picture(path: Path, *, force: bool) -> None:
    """Refuse what cannot be drawn before anything is measured.

    Raises:
        UsageError: the name has another ending than `FORMATS`, or matplotlib is missing.
        NotFoundError, OutputError: as `check_output`.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: the name has to end with {' or '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise UsageError("--plot FILE needs matplotlib: pip install 'rbe-cli[plot]'")
    check_output(path, force=force)


def draw_bench(result: "BenchResult", path: Path, *, force: bool) -> None:
    """Draw rates: tokens a second of each model, GFLOP/s of the layers of each shape.

    Raises:
        OutputError: the file cannot be written.
    """
    panels: list[tuple[str, str, list[str], dict[str, list[float]]]] = []
    if result.models:
        for name in ("prefill", "decode"):
            rates = [getattr(own, f"{name}_tokens_per_second") for own in result.models]
            names = [Path(own.model).name for own in result.models]
            panels.append((name, "tokens/s", names, {"": rates}))
    for shape in dict.fromkeys(own.shape for own in result.results):
        rows = [own for own in result.results if own.shape == shape]
        ops = list(dict.fromkeys(str(own.op) for own in rows))
        bars = {
            str(variant): [_gflops(rows, op, variant) for op in ops]
            for variant in dict.fromkeys(own.variant for own in rows)
        }
        panels.append((shape, "GFLOP/s", ops, bars))
    if not panels:
        return
    heights = [max(_LEAST_HEIGHT, 1 + _INCH_A_BAR * len(p[2]) * len(p[3])) for p in panels]
    axes, save = _figure(heights)
    for ax, (title, unit, names, bars) in zip(axes, panels, strict=True):
        _bars(ax, names, bars)
        ax.set_title(title)
        ax.set_xlabel(unit)
    save(path, force)


def _gflops(rows: Sequence[Any], op: str, variant: str) -> float:
    """Return the GFLOP/s of a layer; 0 where it was left out."""
    return next((own.gflops for own in rows if (own.op, own.variant) == (op, variant)), 0.0)


def draw_tensors(tensors: Sequence[Mapping[str, Any]], path: Path, *, force: bool) -> None:
    """Draw the bits a weight of each matrix, and the bytes of all tensors.

    Args:
        tensors: `name`, `shape`, `codec`, `bits_per_weight` and `bytes` of each.
        path: of the picture.
        force: whether to replace a file.

    Raises:
        OutputError: the file cannot be written.
    """
    matrices = [own for own in tensors if len(own["shape"]) == 2]
    names = [own["name"].removesuffix(".weight") for own in matrices]
    height = max(_LEAST_HEIGHT, 1 + _INCH_A_BAR * len(matrices))
    axes, save = _figure([height, height])
    codecs = dict.fromkeys(own["codec"] for own in matrices)
    for ax, field, unit, scale in (
        (axes[0], "bits_per_weight", "bits a weight", 1.0),
        (axes[1], "bytes", "kB", 1e-3),
    ):
        bars = {
            codec: [scale * own[field] if own["codec"] == codec else 0.0 for own in matrices]
            for codec in codecs
        }
        _bars(ax, names, bars, stacked=True)
        ax.set_xlabel(unit)
    vectors = sum(own["bytes"] for own in tensors if len(own["shape"]) == 1)
    axes[1].set_title(f"vectors: {vectors / 1000:.1f} kB more")
    save(path, force)


def _figure(heights: Sequence[float]) -> tuple[list["Axes"], Any]:
    """Return panels one below the other, and the function that saves them as `(path, force)`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, sum(heights)), layout="constrained")
    ratios = {"height_ratios": heights}
    axes = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw=ratios)[:, 0]

    def save(path: Path, force: bool) -> None:
        with new_file(path, force=force) as file:
            figure.savefig(file, format=path.suffix[1:].lower(), dpi=120)

    return list(axes), save


def _bars(
    ax: "Axes", names: Sequence[str], bars: Mapping[str, Sequence[float]], *, stacked: bool = False
) -> None:
    """Draw horizontal bars from the top down: side by side, or stacked."""
    height = 0.8 if stacked else 0.8 / len(bars)
    for index, (label, values) in enumerate(bars.items()):
        shift = 0.0 if stacked else (index - (len(bars) - 1) / 2) * height
        places = [place + shift for place in range(len(names))]
        ax.barh(places, list(values), height, label=label or None)
    ax.set_yticks(range(len(names)), list(names), fontsize=7, parse_math=False)
    ax.invert_yaxis()
    if any(bars):
        ax.legend(fontsize=7)
