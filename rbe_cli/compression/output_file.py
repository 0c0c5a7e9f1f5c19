"""The file that a compression makes: its size before it is written, and its writing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rbe_cli import __version__
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source_name import public_name
from rbe_cli.container.file_layout import bits_per_weight
from rbe_cli.container.header import Provenance
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.tokenizer_section import TokenizerFacts, pack_tokenizer
from rbe_cli.container.writer import container_bytes, write_container
from rbe_cli.evaluation.batching import Window
from rbe_cli.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Quality:
    """Measured on calibration text that the codec did not see, in windows (evaluation/evaluate.py).

    Attributes:
        kl_divergence: KL(original || file), nats a token.
        perplexity, reference_perplexity: of the file and of the original. On text that the
            original wrote itself they are lower than on a book.
        tokens: predictions that were counted.
        kl_divergence_error: standard error of the KL divergence, nats a token.
        kl_divergence_p99, kl_divergence_max: 99th percentile and maximum over tokens.
        perplexity_error, perplexity_ratio_error: standard errors of the perplexity, and of its
            ratio to the original's.
        top_1_agreement: how often both find the same token likeliest, from 0 to 1.
        windows, context: how many windows there were, and tokens of the longest.
        text: the file's name, or `calibration.SAMPLED`.
    """

    kl_divergence: float
    perplexity: float
    reference_perplexity: float
    tokens: int
    kl_divergence_error: float | None
    kl_divergence_p99: float
    kl_divergence_max: float
    perplexity_error: float | None
    perplexity_ratio_error: float | None
    top_1_agreement: float
    windows: int
    context: int
    text: str

    @classmethod
    def of(cls, found: Evaluation, windows: Sequence[Window], text: str) -> "Quality":
        """What was found, with a reference, on windows of `text`."""
        compared = found.comparison
        assert compared is not None
        perplexity = found.loss.exp()
        return cls(
            kl_divergence=compared.kl_divergence.value,
            perplexity=perplexity.value,
            reference_perplexity=compared.reference_loss.exp().value,
            tokens=found.predictions,
            kl_divergence_error=compared.kl_divergence.error,
            kl_divergence_p99=compared.kl_divergence_p99,
            kl_divergence_max=compared.kl_divergence_max,
            perplexity_error=perplexity.error,
            perplexity_ratio_error=compared.loss_increase.exp().error,
            top_1_agreement=compared.top_1_agreement.value,
            windows=found.windows,
            context=max(len(window.tokens) for window in windows),
            text=text,
        )


class OutputFile:
    """A file of a checkpoint's config and tokenizer, with tensors to come."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        goals: Mapping[str, float],
        preset: str | None,
        calibration: str,
        seed: int,
        text: str = "",
    ) -> None:
        """Args:
        checkpoint: what is compressed.
        goals, preset, calibration, seed: for the provenance.
        text: what the quality will be measured on, see `Quality`.
        """
        self._checkpoint = checkpoint
        self._goals = dict(goals)
        self._preset = preset
        self._calibration = calibration
        self._seed = seed
        self._text = text
        tokenizer = checkpoint.tokenizer_json
        self._tokenizer = TokenizerFacts.of_json(tokenizer, checkpoint.tokenizer_missing)
        self._tokenizer_bytes = len(pack_tokenizer(tokenizer)) if tokenizer else None

    def size(self, tensors: Iterable[StoredTensor], matrices: Mapping[str, int]) -> float:
        """Bits a weight of the file with these tensors, and matrices of so many bytes to come."""
        parts = [(tensor.name, tensor.codec, len(tensor.data)) for tensor in tensors]
        parts += [(name, "ectcq", count) for name, count in matrices.items()]
        return self.bits_per_weight(self.bytes(parts))

    def bytes(self, parts: Iterable[tuple[str, str, int]]) -> int:
        """Bytes of the file with tensors of these names, codecs and bytes."""
        return container_bytes(
            config=self._checkpoint.config,
            tensors=parts,
            tokenizer_bytes=self._tokenizer_bytes,
            provenance=self._provenance(self._usual_quality()),
        )

    def bits_per_weight(self, file_bytes: int) -> float:
        """Of a file of so many bytes, its tokenizer not counted."""
        return bits_per_weight(self._checkpoint.config, file_bytes, self._tokenizer_bytes or 0)

    def write(
        self, path: Path, tensors: Sequence[StoredTensor], quality: Quality, *, force: bool
    ) -> int:
        """Write it; returns its bytes."""
        return write_container(
            path,
            config=self._checkpoint.config,
            tensors=tensors,
            tokenizer_json=self._checkpoint.tokenizer_json,
            provenance=self._provenance(quality),
            force=force,
        )

    def _usual_quality(self) -> Quality:
        """One that takes as many bytes in the header as what will be measured, or hardly more."""
        number, count = 0.5, 0xFFFF
        return Quality(
            *(number, number, number, count, number, number, number, number, number, number),
            windows=0xFF,
            context=count,
            text=self._text,
        )

    def _provenance(self, quality: Quality) -> Provenance:
        return Provenance(
            source=_readable(public_name(self._checkpoint.source)),
            source_hash=self._checkpoint.source_hash,
            tool_version=__version__,
            preset=self._preset,
            calibration=_readable(self._calibration),
            seed=self._seed,
            extra=self._goals | asdict(quality) | self._tokenizer.extras,
        )


def _readable(name: str) -> str:
    """A name that is not Unicode, escaped."""
    return name.encode(errors="backslashreplace").decode()
