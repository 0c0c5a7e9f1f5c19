"""Compress: checkpoint -> calibration -> moments -> steps -> blocks -> `.rbe` file."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbe_cli import __version__
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.config import Gpt2Config
from rbe_cli.checkpoint.names import is_embedding, parameter_count
from rbe_cli.codec import dense
from rbe_cli.codec.classic import ClassicMatrix
from rbe_cli.codec.feedback import InputFactor, OutputFactor
from rbe_cli.codec.matrix import EncodedMatrix, encode_block
from rbe_cli.container.geometry import bits_per_weight
from rbe_cli.container.header import Provenance
from rbe_cli.container.publish import check_output
from rbe_cli.container.tensor import StoredTensor
from rbe_cli.container.tokenizer import pack_tokenizer
from rbe_cli.container.writer import container_bytes, write_container
from rbe_cli.engine.warm_up import compile_steps, warm_up
from rbe_cli.errors import QualityError, UsageError
from rbe_cli.kernels.table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2
from rbe_cli.progress import Progress, no_progress
from rbe_cli.tasks import calibration, moments
from rbe_cli.tasks.encoding import Source
from rbe_cli.tasks.evaluate import Window, evaluate
from rbe_cli.tasks.fitting import fit
from rbe_cli.tasks.memory import peak_rss_bytes
from rbe_cli.tasks.metric import is_classic, is_coded, make_sources
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
        force: replace an existing output, and write one that misses `max_kl_divergence`.
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
        QualityError: the result misses `max_kl_divergence` (without `force`).
    """
    started = time.perf_counter()
    check_output(output, force=options.force)
    tensors = dict(checkpoint.tensors)
    model = Gpt2.from_checkpoint(checkpoint.config, tensors, load_kernels("fast", threads=1))
    _compile(model, progress)
    text = _calibrate(checkpoint, model, options, executor, progress)
    stored = {
        name: _store_dense(name, tensor, options.settings)
        for name, tensor in tensors.items()
        if not is_coded(name, options.settings) and not is_classic(name, options.settings)
    }
    stored = _with_classic(checkpoint, options.settings, stored, executor)
    found = moments.collect(model, text.used, options.seed, executor, progress)
    rate = _matrix_rate(checkpoint.config, options.settings, stored)
    sources = make_sources(tensors, found, options.settings, rate, executor)
    file = _File(checkpoint, options, text)
    size = partial(file.bits_per_weight, list(stored.values()))
    encoded = fit(sources, options.settings, size, executor, progress)
    for name, matrix in encoded.items():
        stored[name] = StoredTensor(name, tensors[name].shape, "ectcq", matrix.to_bytes())

    decoded: dict[str, Float32] = {}
    reports = []
    for name, tensor in tensors.items():
        decoded[name] = _decode(stored[name])
        encoded_here = name in sources or is_classic(name, options.settings)
        power = _output_power(name, sources, found) if encoded_here else None
        reports.append(_report(stored[name], tensor, decoded[name], power))
    quality = _measure(model, decoded, text, executor, progress)
    promised = options.settings.max_kl_divergence
    if promised is not None and quality.kl_divergence > promised and not options.force:
        raise QualityError(
            f"the KL divergence of {quality.kl_divergence:.5f} nats a token is above the "
            f"{promised} that {options.preset or 'the config'} promises; --force accepts it"
        )
    file_bytes = file.write(output, [stored[name] for name in tensors], quality)
    return CompressResult(
        source=checkpoint.source,
        output=str(output),
        preset=options.preset,
        parameters=parameter_count(checkpoint.config),
        bits_per_weight=bits_per_weight(checkpoint.config, file_bytes, file.tokenizer_bytes or 0),
        file_bytes=file_bytes,
        original_bytes=checkpoint.weight_bytes,
        ratio=checkpoint.weight_bytes / file_bytes,
        seconds=time.perf_counter() - started,
        peak_rss_bytes=peak_rss_bytes(),
        tensors=reports,
        quality=quality,
    )


class _File:
    """The file to come: its size, for any bytes of its matrices, and its writing."""

    def __init__(
        self, checkpoint: Checkpoint, options: CompressOptions, text: calibration.Calibration
    ) -> None:
        self._checkpoint = checkpoint
        self._options = options
        self._text = text
        tokenizer = checkpoint.tokenizer_json
        self.tokenizer_bytes = len(pack_tokenizer(tokenizer)) if tokenizer else None

    def bits_per_weight(
        self, dense_tensors: Iterable[StoredTensor], matrices: Mapping[str, int]
    ) -> float:
        """Of the file with these tensors and matrices of so many bytes."""
        parts = [(tensor.name, tensor.codec, len(tensor.data)) for tensor in dense_tensors]
        parts += [(name, "ectcq", count) for name, count in matrices.items()]
        file_bytes = container_bytes(
            config=self._checkpoint.config,
            tensors=parts,
            tokenizer_bytes=self.tokenizer_bytes,
            provenance=self._provenance(Quality(0.0, 0.0, 0.0, 0)),
        )
        return bits_per_weight(self._checkpoint.config, file_bytes, self.tokenizer_bytes or 0)

    def write(self, output: Path, tensors: Sequence[StoredTensor], quality: Quality) -> int:
        """Write it; returns its bytes."""
        return write_container(
            output,
            config=self._checkpoint.config,
            tensors=tensors,
            tokenizer_json=self._checkpoint.tokenizer_json,
            provenance=self._provenance(quality),
            force=self._options.force,
        )

    def _provenance(self, quality: Quality) -> Provenance:
        return Provenance(
            source=_readable(self._checkpoint.source),
            source_hash=self._checkpoint.source_hash,
            tool_version=__version__,
            preset=self._options.preset,
            calibration=_readable(self._text.description),
            seed=self._options.seed,
            extra={"target_bpw": self._options.settings.target_bpw} | asdict(quality),
        )


def _readable(name: str) -> str:
    """A name that is not Unicode, escaped."""
    return name.encode(errors="backslashreplace").decode()


def _compile(model: Gpt2, progress: Progress) -> None:
    """Run every kernel, the encoder and the decoder once, on next to nothing."""

    def encode_one_weight() -> None:
        inputs, outputs = InputFactor.identity(1), OutputFactor.identity(1)
        block = encode_block(np.ones((1, 1), np.float32), 1.0, inputs, outputs)
        EncodedMatrix((1, 1), 1.0, (block,)).decode()

    warm_up(model, progress, backward=True)
    compile_steps("compiling the encoder (first run only)", [encode_one_weight], progress)


def _matrix_rate(
    config: Gpt2Config, settings: Settings, dense_tensors: Mapping[str, StoredTensor]
) -> float:
    """About the bits a weight that are left for the coded matrices, 1 at least."""
    dense_bits = 8 * sum(len(tensor.data) for tensor in dense_tensors.values())
    dense_count = sum(math.prod(tensor.shape) for tensor in dense_tensors.values())
    coded_count = parameter_count(config) - dense_count
    left = settings.target_bpw * parameter_count(config) - dense_bits
    return max(left / max(coded_count, 1), 1.0)


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
    codec = asked if asked in ("float16", "float32") else dense.choose(tensor)
    if codec == "float16" and np.abs(tensor).max() > np.finfo(np.float16).max:
        raise UsageError(f"{name} has values beyond the range of float16, which was asked for")
    return StoredTensor(name, tensor.shape, codec, dense.encode(tensor, codec))


def _with_classic(
    checkpoint: Checkpoint,
    settings: Settings,
    dense_tensors: Mapping[str, StoredTensor],
    executor: Executor,
) -> dict[str, StoredTensor]:
    """These and the matrices of the classic scheme.

    Those have their own bits, or then an even share of what the target leaves.
    """

    def store(name: str, bits: float) -> StoredTensor:
        tensor = checkpoint.tensors[name]
        weights = tensor.T if is_embedding(name) else tensor
        data = ClassicMatrix.encode(weights, bits, settings.block(name)).to_bytes()
        return StoredTensor(name, tensor.shape, "classic", data)

    names = [name for name in checkpoint.tensors if is_classic(name, settings)]
    own = {name: bits for name in names if (bits := settings.bits(name)) is not None}
    stored = dict(dense_tensors)
    stored |= zip(own, executor.map(store, own, own.values()), strict=True)
    rate = _matrix_rate(checkpoint.config, settings, stored)
    shared = {name: rate for name in names if name not in own}
    stored |= zip(shared, executor.map(store, shared, shared.values()), strict=True)
    return stored


def _decode(stored: StoredTensor) -> Float32:
    """As a checkpoint holds it."""
    if stored.codec in ("float16", "float32"):
        return dense.decode(stored.data, stored.shape, stored.codec)
    transposed = is_embedding(stored.name)
    rows, columns = stored.shape[::-1] if transposed else stored.shape
    kind = EncodedMatrix if stored.codec == "ectcq" else ClassicMatrix
    matrix = kind.from_bytes(stored.data, (rows, columns)).decode()
    return matrix.T if transposed else matrix


def _output_power(
    name: str, sources: Mapping[str, Source], found: moments.Moments
) -> Callable[[Float32], float] | None:
    """Mean squared output of a matrix `[K, N]` on the layer's inputs; None if it has no layer."""
    if name in sources and not is_embedding(name):
        return sources[name].inputs.output_power
    moment = found.inputs.get(name)
    # The codec's own factor of a tied matrix also holds what it costs as an embedding.
    return None if moment is None else lambda change: float(np.vdot(moment @ change, change))


def _report(
    stored: StoredTensor,
    tensor: Float32,
    decoded: Float32,
    power: Callable[[Float32], float] | None,
) -> TensorReport:
    norm = float(np.linalg.norm(tensor))
    output_error = None
    if power is not None:
        matrix, change = tensor, tensor - decoded
        if is_embedding(stored.name):
            matrix, change = matrix.T, change.T
        error = power(change) / max(power(matrix), 1e-30)
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
