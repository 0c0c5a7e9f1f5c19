"""Compress: checkpoint -> calibration -> moments -> steps -> blocks -> `.rbe` file."""

import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbe_cli import __version__
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.names import is_embedding, parameter_count
from rbe_cli.codec import dense
from rbe_cli.codec.feedback import InputFactor, OutputFactor
from rbe_cli.codec.matrix import EncodedMatrix, encode_block
from rbe_cli.container.geometry import bits_per_weight
from rbe_cli.container.header import Provenance
from rbe_cli.container.publish import check_output
from rbe_cli.container.tensor import StoredTensor
from rbe_cli.container.tokenizer import pack_tokenizer
from rbe_cli.container.writer import container_bytes, write_container
from rbe_cli.engine.warm_up import compile_steps, warm_up
from rbe_cli.errors import UsageError
from rbe_cli.kernels.table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress, no_progress
from rbe_cli.tasks import calibration, moments
from rbe_cli.tasks.encoding import Source
from rbe_cli.tasks.evaluate import Window, evaluate
from rbe_cli.tasks.fitting import fit
from rbe_cli.tasks.memory import peak_rss_bytes
from rbe_cli.tasks.metric import is_coded, make_sources
from rbe_cli.tasks.settings import Settings

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class CompressOptions:
    """What to compress with.

    Attributes:
        settings: the target and the overrides.
        preset: the settings' name; None if they have none.
        calib: text to calibrate on; with `calib_tokens` None too, the checkpoint writes it.
        calib_tokens: token file to calibrate on.
        calib_samples: number of calibration sequences; None for `default_samples`.
        seed: of every random choice.
        force: replace an existing output.
    """

    settings: Settings
    preset: str | None = None
    calib: Path | None = None
    calib_tokens: Path | None = None
    calib_samples: int | None = None
    seed: int = 0
    force: bool = False


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the file; errors are relative Frobenius norms, None where not measured."""

    name: str
    shape: tuple[int, ...]
    codec: str
    bits_per_weight: float
    relative_error: float
    relative_output_error: float | None


@dataclass(frozen=True)
class Quality:
    """Measured on calibration text that the codec did not see."""

    kl_divergence: float
    perplexity: float
    reference_perplexity: float
    tokens: int


@dataclass(frozen=True)
class CompressResult:
    """What was written, under the contract's names."""

    source: str
    output: str
    preset: str | None
    parameters: int
    bits_per_weight: float
    file_bytes: int
    original_bytes: int
    ratio: float
    seconds: float
    peak_rss_bytes: int
    tensors: list[TensorReport]
    quality: Quality


def compress(
    checkpoint: Checkpoint,
    output: Path,
    options: CompressOptions,
    executor: Executor,
    progress: Progress = no_progress,
) -> CompressResult:
    """Compress a checkpoint into `output`, which appears whole or not at all.

    Raises:
        UsageError: the target cannot be reached, or the calibration cannot be used.
        OutputError: the output exists (without `force`) or cannot be written.
        CheckpointError: a tensor holds NaN or infinity.
    """
    started = time.perf_counter()
    check_output(output, force=options.force)
    settings = options.settings
    tensors = dict(checkpoint.tensors)
    model = Gpt2.from_checkpoint(checkpoint.config, tensors, load_kernels("fast", threads=1))
    warm_up(model, progress)
    compile_steps("compiling the encoder (first run only)", [_encode_anything], progress)
    text = _calibrate(checkpoint, model, options, executor, progress)
    stored = {
        name: _store_dense(name, tensor, settings)
        for name, tensor in tensors.items()
        if not is_coded(name, settings)
    }
    tokenizer = checkpoint.tokenizer_json
    tokenizer_bytes = len(pack_tokenizer(tokenizer)) if tokenizer else None

    def size(matrices: Mapping[str, int]) -> float:
        """Bits a weight of the file, given the bytes of each matrix."""
        parts = [(tensor.name, tensor.codec, len(tensor.data)) for tensor in stored.values()]
        parts += [(name, "ectcq", count) for name, count in matrices.items()]
        file_bytes = container_bytes(
            config=checkpoint.config,
            tensors=parts,
            tokenizer_bytes=tokenizer_bytes,
            provenance=_provenance(checkpoint, options, text, Quality(0.0, 0.0, 0.0, 0)),
        )
        return bits_per_weight(checkpoint.config, file_bytes, tokenizer_bytes or 0)

    coded = sum(tensor.size for name, tensor in tensors.items() if name not in stored)
    left = settings.target_bpw * parameter_count(checkpoint.config) - 8 * sum(
        len(tensor.data) for tensor in stored.values()
    )
    found = moments.collect(model, text.used, options.seed, executor, progress)
    sources = make_sources(tensors, found, settings, max(left / max(coded, 1), 1.0), executor)
    encoded = fit(sources, settings, size, executor, progress)

    products = {linear.name for linear in model.linears()}
    decoded: dict[str, Float32] = {}
    reports = []
    for name, tensor in tensors.items():
        if name in encoded:
            stored[name] = StoredTensor(name, tensor.shape, "ectcq", encoded[name].to_bytes())
            matrix = encoded[name].decode()
            decoded[name] = matrix.T if is_embedding(name) else matrix
        else:
            data = stored[name]
            decoded[name] = dense.decode(data.data, tensor.shape, data.codec)
        source = sources.get(name) if name in products else None
        reports.append(_report(stored[name], tensor, decoded[name], source))
    quality = _measure(model, decoded, text, executor, progress)
    file_bytes = write_container(
        output,
        config=checkpoint.config,
        tensors=[stored[name] for name in tensors],
        tokenizer_json=tokenizer,
        provenance=_provenance(checkpoint, options, text, quality),
        force=options.force,
    )
    return CompressResult(
        source=checkpoint.source,
        output=str(output),
        preset=options.preset,
        parameters=parameter_count(checkpoint.config),
        bits_per_weight=bits_per_weight(checkpoint.config, file_bytes, tokenizer_bytes or 0),
        file_bytes=file_bytes,
        original_bytes=checkpoint.weight_bytes,
        ratio=checkpoint.weight_bytes / file_bytes,
        seconds=time.perf_counter() - started,
        peak_rss_bytes=peak_rss_bytes(),
        tensors=reports,
        quality=quality,
    )


def _encode_anything() -> None:
    """Run the encoder and the decoder once, on one weight."""
    inputs, outputs = InputFactor.identity(1), OutputFactor.identity(1)
    block = encode_block(np.ones((1, 1), np.float32), 1.0, inputs, outputs)
    EncodedMatrix((1, 1), 1.0, (block,)).decode()


def _calibrate(
    checkpoint: Checkpoint,
    model: Gpt2,
    options: CompressOptions,
    executor: Executor,
    progress: Progress,
) -> calibration.Calibration:
    samples = options.calib_samples or calibration.default_samples(checkpoint.config)
    seed = options.seed
    if options.calib:
        return calibration.from_text(checkpoint, options.calib, samples, seed)
    if options.calib_tokens:
        return calibration.from_token_file(checkpoint, options.calib_tokens, samples, seed)
    return calibration.from_model(model, samples, seed, executor, progress)


def _store_dense(name: str, tensor: Float32, settings: Settings) -> StoredTensor:
    asked = settings.codec(name)
    codec = dense.choose(tensor) if asked == "ectcq" else asked
    if codec == "float16" and np.abs(tensor).max() > np.finfo(np.float16).max:
        raise UsageError(f"{name} has values beyond the range of float16, which was asked for")
    return StoredTensor(name, tensor.shape, codec, dense.encode(tensor, codec))


def _report(
    stored: StoredTensor, tensor: Float32, decoded: Float32, source: Source | None
) -> TensorReport:
    norm = float(np.linalg.norm(tensor))
    output_error = None
    if source is not None:
        change = tensor - decoded
        change = change.T if is_embedding(stored.name) else change
        power = source.inputs.output_power
        error = power(change) / max(power(source.weights), 1e-30)
        output_error = float(np.sqrt(max(error, 0.0)))
    return TensorReport(
        stored.name,
        stored.shape,
        stored.codec,
        8 * len(stored.data) / tensor.size,
        float(np.linalg.norm(tensor - decoded)) / max(norm, 1e-30),
        output_error,
    )


def _measure(
    model: Gpt2,
    decoded: Mapping[str, Float32],
    text: calibration.Calibration,
    executor: Executor,
    progress: Progress,
) -> Quality:
    compressed = Gpt2.from_checkpoint(model.config, decoded, model.kernels)
    windows = [Window(sequence) for sequence in text.held_out]
    found = evaluate(compressed, windows, executor, model, progress)
    assert found.kl_divergence is not None
    assert found.reference_perplexity is not None
    return Quality(
        found.kl_divergence, found.perplexity, found.reference_perplexity, found.predictions
    )


def _provenance(
    checkpoint: Checkpoint,
    options: CompressOptions,
    text: calibration.Calibration,
    quality: Quality,
) -> Provenance:
    return Provenance(
        source=_readable(checkpoint.source),
        source_hash=checkpoint.source_hash,
        tool_version=__version__,
        preset=options.preset,
        calibration=_readable(text.description),
        seed=options.seed,
        extra={"target_bpw": options.settings.target_bpw} | asdict(quality),
    )


def _readable(text: str) -> str:
    """Text with what is not Unicode, in a file's name, as escapes."""
    return text.encode(errors="backslashreplace").decode()
