"""`rbe inspect`: what a `.rbe` file says of itself."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbe_cli.cli import inspect_options as options
from rbe_cli.cli.help import Verb
from rbe_cli.cli.inputs import open_rbe
from rbe_cli.cli.inspect_diff import show_difference
from rbe_cli.cli.options import Force, FormatOption, Offline, Quiet, RbeFile, Threads, Verbose
from rbe_cli.cli.output import Format, Output, drawable, facts, size, table
from rbe_cli.cli.quality import FIELDS, is_quality, quality_facts

if TYPE_CHECKING:
    from rich.console import Console

    from rbe_cli.container.reader import Container
    from rbe_cli.evaluation.file_difference import Difference

EXAMPLES = """\
rbe inspect gpt2.rbe
rbe inspect gpt2.rbe --tensors
rbe inspect gpt2.rbe --verify --format json
rbe inspect gpt2.rbe --plot bits.svg
rbe inspect gpt2.rbe --diff gpt2-small.rbe"""
_PICTURES = (".png", ".svg", ".jpg", ".jpeg", ".pdf", ".webp")  # what a picture is called


class Inspect(Verb):
    """Parse the verb, whose `--plot` takes a value only if a picture's name follows it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _with_plot_value(args))


PARSER = Inspect


def _with_plot_value(arguments: Sequence[str]) -> list[str]:
    """Return arguments with `--plot FILE` as `--plot=FILE`, and `--plot` alone as `--plot=`."""
    found: list[str] = []
    for argument in arguments:
        is_picture = argument.lower().endswith(_PICTURES) and not argument.startswith("-")
        if found and found[-1] == "--plot=" and is_picture:
            found[-1] += argument
        else:
            found.append("--plot=" if argument == "--plot" else argument)
    return found


def inspect(
    file: RbeFile,
    tensors: options.Tensors = False,
    plot: options.Plot = None,
    force: Force = False,
    verify: options.Verify = False,
    diff: options.Diff = None,
    threads: Threads = None,  # as every verb takes it
    offline: Offline = False,
    format: FormatOption = Format.human,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Show what is in an .rbe file, from its header alone."""
    out = Output(format, quiet, verbose)
    picture = Path(plot) if plot else None
    if picture is not None:
        from rbe_cli.cli.charts import check_picture, draw_tensors

        check_picture(picture, force=force)
    with open_rbe(file, offline, out) as container:
        if verify:
            _verify(container, out)
        found = _describe(container, verified=verify)
        compared = _compare(container, diff, offline, out) if diff is not None else None

    def show(console: "Console") -> None:
        _show(console, found, tensors, plot == "")
        if compared is not None:
            show_difference(console, compared)

    out.result(found if compared is None else found | {"diff": compared}, show)
    if picture is not None:
        draw_tensors(found["tensors"], picture, force=force)


def _verify(container: "Container", out: Output) -> None:

    container.verify()
    container.tokenizer_json()
    names = list(container.tensors)
    with out.progress() as progress:
        progress("decoding", 0, len(names))
        for index, name in enumerate(names):
            container.tensors[name].resident()
            progress("decoding", index + 1, len(names))


def _compare(container: "Container", diff: str, offline: bool, out: Output) -> "Difference":
    from rbe_cli.evaluation.file_difference import difference

    with open_rbe(diff, offline, out) as other, out.progress() as progress:
        return difference(container, other, progress)


def _describe(container: "Container", verified: bool) -> dict[str, Any]:
    """Return the fields of docs/json.md; `verified` is None if only the header was read."""
    import msgspec

    from rbe_cli.model.tensor_names import parameter_count

    return {
        "format_version": container.format_version,
        "codec_versions": dict(container.codec_versions),
        "config": msgspec.to_builtins(container.config),
        "tokenizer": asdict(container.tokenizer_facts),
        "parameters": parameter_count(container.config),
        "bits_per_weight": container.bits_per_weight,
        "file_bytes": container.file_bytes,
        "sections": [
            {
                "name": section.name,
                "offset": section.offset,
                "bytes": section.size,
                "checksum": section.checksum.hex(),
            }
            for section in container.sections
        ],
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "codec": tensor.codec,
                "bits_per_weight": tensor.bits_per_weight,
                "bytes": tensor.size,
            }
            for tensor in container.layout.tensors.values()
        ],
        "provenance": msgspec.structs.asdict(container.provenance),
        "verified": True if verified else None,
    }


def _show(console: "Console", found: dict[str, Any], tensors: bool, plot: bool) -> None:
    config, provenance = found["config"], found["provenance"]
    codecs = ", ".join(f"{name} {version}" for name, version in found["codec_versions"].items())
    pairs = [
        ("format", f"version {found['format_version']}, codecs {codecs}"),
        (
            "model",
            f"{config['n_layer']} layers, {config['n_embd']} wide, {config['n_head']} heads, "
            f"vocabulary {config['vocab_size']}, context {config['n_positions']}",
        ),
        ("tokenizer", _tokenizer(**found["tokenizer"])),
        ("end of text", _ends(config["eos_token_id"])),
        ("parameters", f"{found['parameters']:,}"),
        ("bits per weight", f"{found['bits_per_weight']:.3f}"),
        ("file", size(found["file_bytes"])),
        ("source", f"{provenance['source']} ({provenance['source_hash']})"),
        ("calibrated on", provenance["calibration"]),
    ]
    extra = {
        name: value
        for name, value in provenance["extra"].items()
        if not name.startswith("tokenizer_")  # shown above
    }
    pairs += _measured(extra, provenance["calibration"])
    if found["verified"]:
        pairs.append(("verified", "every checksum is right, every tensor decodes"))
    console.print(facts(pairs))
    if tensors:
        rows = [
            (
                tensor["name"],
                " x ".join(map(str, tensor["shape"])),
                tensor["codec"],
                f"{tensor['bits_per_weight']:.3f}",
                f"{tensor['bytes']:,}",
            )
            for tensor in found["tensors"]
        ]
        console.print(table("", ("tensor", "shape", "codec", "bits", "bytes"), rows))
    if plot:
        console.print()
        bars = [(tensor["name"], _bar(tensor["bits_per_weight"])) for tensor in found["tensors"]]
        console.print(facts(bars))


def _measured(extra: dict[str, Any], calibration: str) -> list[tuple[str, str]]:
    """Return rows with the targets of the file, and with the measured quality."""
    if not is_quality(extra):
        return [(name, _short(value)) for name, value in extra.items()]
    goals = [(name, _short(value)) for name, value in extra.items() if name not in FIELDS]
    # A file of an older version says only what it was calibrated on.
    text = calibration if extra.get("text") is None else f"text {extra['text']}"
    return goals + quality_facts(extra, text)


def _bar(bits: float) -> str:
    """Draw a block for every half bit."""
    return f"{drawable('█', '#') * round(2 * bits)} {bits:.2f}"


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _tokenizer(kind: str | None, tokens: int | None, missing: str | None) -> str:
    if missing is not None:
        return f"none, so token ids only ({missing})"
    return f"{kind} of {tokens} tokens" if kind else "stored"


def _ends(ids: int | Sequence[int] | None) -> str:
    """Return the tokens that end a text, for people."""
    if ids is None:
        return "no token"
    return f"token {ids}" if isinstance(ids, int) else f"tokens {', '.join(map(str, ids))}"
