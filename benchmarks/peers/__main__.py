"""Run the benchmark's command line: `python -m benchmarks.peers --help`."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers import kquants, rbe_scheme, scheme_report
from benchmarks.peers.measure import Point, SchemeSubject, assemble, input_moments, score
from benchmarks.peers.quantised import Float32
from benchmarks.peers.schemes import Scheme, ggml, grids
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.cli.inputs import GivenInput, read_prompts
from rbe_cli.compression.calibration import Calibration, default_samples, from_model, from_text
from rbe_cli.errors import OutputError, RbeError, UsageError
from rbe_cli.evaluation.batching import Window, sliding_windows
from rbe_cli.evaluation.evaluate import evaluate
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.jobs.workers import workers as make_workers
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.model.tensor_names import is_embedding, is_matrix
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import no_progress
from rbe_cli.text.tokenizer import Tokenizer


def main(command_line: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(command_line)
    try:
        with make_workers(arguments.threads) as workers:
            run(arguments, workers)
    except RbeError as error:
        print(f"peers: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="One checkpoint through other quantisers and through rbe, side by side.",
    )
    found.add_argument("source", help="as of `rbe compress`: demo, a folder, a file, a hub id")
    text = found.add_mutually_exclusive_group()
    text.add_argument(
        "--text", type=Path,
        help="measure on this; default: more text of its own, or what --calib leaves",
    )  # fmt: skip
    text.add_argument("--tokens", type=Path, help="measure on the sequences of a token file")
    found.add_argument("--context", type=positive, default=256, help="tokens a window")
    found.add_argument("--windows", type=positive, default=80, help="windows measured, at most")
    found.add_argument("--calib", type=Path, help="calibrate on this; default: as `rbe compress`")
    found.add_argument("--seed", type=int, default=0, help="of the calibration")
    found.add_argument(
        "--rates", type=rates, default=rbe_scheme.BITS, metavar="BITS,...", help="of rbe"
    )
    found.add_argument(
        "--tune", type=int, default=100, metavar="STEPS",
        help="rbe with so many steps of training too, up to 4 bits (default 100; 0: without)",
    )  # fmt: skip
    found.add_argument("--only-rbe", action="store_true", help="leave the other quantisers out")
    found.add_argument("--no-imatrix", action="store_true", help="no K-quants with importance")
    found.add_argument(
        "--layers-only", action="store_true", help="leave embeddings and head as float16"
    )
    found.add_argument("--threads", type=positive)
    found.add_argument("--json", type=Path, metavar="FILE")
    found.add_argument("--plot", type=Path, metavar="FILE.png", help="needs matplotlib")
    return found


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 2,3.5") from None


def run(arguments: argparse.Namespace, workers: Workers) -> None:
    """Measure every scheme, printing rows as they come."""
    if arguments.plot and find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'rbe-cli[bench]'")
    checkpoint = open_checkpoint(arguments.source)
    kernels = load_kernels("fast", threads=1)  # windows go to one thread each
    model = Gpt2.from_checkpoint(checkpoint.config, dict(checkpoint.tensors), kernels)
    text = calibration_text(checkpoint, arguments, workers)
    windows = held_out_windows(checkpoint, text, arguments, workers)
    original = evaluate(model, windows, workers)
    conditions = scheme_report.Conditions(
        source=checkpoint.source,
        predictions=original.predictions,
        context=max(window.tokens.size for window in windows),
        perplexity=original.loss.exp().value,
        calibration=text.description,
    )
    moments = input_moments(model, [window.tokens for window in windows])
    names = [name for name in checkpoint.tensors if is_quantised(name, arguments.layers_only)]
    subject = SchemeSubject(checkpoint, model, names, windows, moments)
    points = []
    print(conditions, scheme_report.heading(), sep="\n\n")
    for point in measure_all(subject, input_moments(model, text.used), arguments, workers):
        points.append(point)
        print(scheme_report.row(point), flush=True)
    try:
        if arguments.json:
            scheme_report.write_json(arguments.json, conditions, points)
        if arguments.plot:
            scheme_report.draw(arguments.plot, conditions, points)
    except OSError as error:
        raise OutputError(f"a report cannot be written: {error}") from error


def measure_all(
    subject: SchemeSubject,
    moments: Mapping[str, Float32],
    arguments: argparse.Namespace,
    workers: Workers,
) -> Iterator[Point]:
    """Yield all schemes at all rates, `rbe` last.

    Args:
        subject: what they are measured on.
        moments: of the inputs on calibration text.
        arguments: of the command line.
        workers: run matrices and windows side by side.
    """
    for scheme in [] if arguments.only_rbe else other_schemes(subject, moments, arguments):
        candidate = assemble(subject, scheme.apply(subject, workers))
        yield score(subject, candidate, scheme.family, scheme.rate, workers)
    options = ["--seed", str(arguments.seed)]
    options += ["--calib", str(arguments.calib)] if arguments.calib else []
    options += ["--threads", str(arguments.threads)] if arguments.threads else []
    for bits in arguments.rates:
        candidate = rbe_scheme.compress(subject, bits, arguments.layers_only, options)
        yield score(subject, candidate, scheme_report.OURS, f"{bits:g} bits", workers)
        if arguments.tune > 0 and bits <= rbe_scheme.MOST_TUNED_BITS:
            tuning = [*options, "--tune", str(arguments.tune)]
            candidate = rbe_scheme.compress(subject, bits, arguments.layers_only, tuning)
            yield score(subject, candidate, scheme_report.OURS_TUNED, f"{bits:g} bits", workers)


def other_schemes(
    subject: SchemeSubject, moments: Mapping[str, Float32], arguments: argparse.Namespace
) -> list[Scheme]:
    """Return the schemes of others. Those that need a library are left out if it is missing."""
    schemes = grids(moments)
    if not kquants.is_installed():
        print("no K-quants: pip install llama-cpp-python gguf", file=sys.stderr)
        return schemes
    config = subject.checkpoint.config
    schemes += ggml(config, None)
    return schemes if arguments.no_imatrix else [*schemes, *ggml(config, moments)]


def is_quantised(name: str, layers_only: bool) -> bool:
    """Return whether a tensor is quantised: matrices of layers, the embedding and the head."""
    if layers_only:
        return is_matrix(name) and not is_embedding(name)
    return is_matrix(name) and name != "wpe.weight"


def calibration_text(
    checkpoint: Checkpoint, arguments: argparse.Namespace, workers: Workers
) -> Calibration:
    """Return what `rbe compress` calibrates on with the same seed and --calib."""
    samples, seed = default_samples(checkpoint.config), arguments.seed
    if arguments.calib:
        return from_text(checkpoint, arguments.calib, samples, seed)
    return own_text(checkpoint, samples, seed, workers)


def own_text(checkpoint: Checkpoint, samples: int, seed: int, workers: Workers) -> Calibration:
    """Return text that the checkpoint writes."""
    with TemporaryDirectory() as folder:
        kept = WorkFolder(Path(folder))
        return from_model(checkpoint, samples, seed, workers, kept, no_progress)


def held_out_windows(
    checkpoint: Checkpoint, text: Calibration, arguments: argparse.Namespace, workers: Workers
) -> list[Window]:
    """Return windows of text that no scheme sees.

    It is the text or token file, else what is held out of --calib, else text that the checkpoint
    writes with another seed. The same seed would not do: `rbe compress --tune` calibrates on more
    text, which contains what shorter calibration text with this seed holds out.
    """
    context = min(arguments.context, checkpoint.config.n_positions)
    sequences = text.held_out
    if arguments.text or arguments.tokens:
        stored, vocab_size = checkpoint.tokenizer_json, checkpoint.config.vocab_size
        tokenizer = Tokenizer(stored, vocab_size) if stored is not None else None
        prompts = read_prompts(
            GivenInput(None, arguments.text, arguments.tokens), tokenizer, vocab_size
        )
        sequences = [prompt.tokens for prompt in prompts]
    elif not arguments.calib:
        sequences = own_text(checkpoint, arguments.windows, arguments.seed + 1, workers).used
    return sliding_windows(sequences, context, context)[: arguments.windows]


if __name__ == "__main__":
    main()
