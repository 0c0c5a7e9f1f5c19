"""Compute the size of the file that a compression makes, and write it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbe_cli import __version__
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source_name import public_name
from rbe_cli.container.file_layout import bits_per_weight
from rbe_cli.container.file_size import FileSize, TensorSize, container_prefix, packed_bytes
from rbe_cli.container.header import Provenance
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.tokenizer_section import TokenizerFacts, pack_tokenizer
from rbe_cli.container.writer import write_container
from rbe_cli.evaluation.batching import Window
from rbe_cli.evaluation.evaluate import Evaluation

_FLOAT_BYTES = 9  # a float as msgpack


@dataclass(frozen=True)
class Quality:
    """The quality of a file, measured on text that the codec did not use (evaluation/evaluate.py).

    Attributes:
        kl_divergence: KL(original || file), in nats per token.
        perplexity, reference_perplexity: of the file and of the original. On text that the
            original generated they are lower than on a book.
        tokens: number of predictions that were counted.
        kl_divergence_error: standard error of the KL divergence, in nats per token.
        kl_divergence_p99, kl_divergence_max: 99th percentile and maximum over tokens.
        perplexity_error, perplexity_ratio_error: standard errors of the perplexity, and of its
            ratio to the original's.
        top_1_agreement: the share of tokens, from 0 to 1, where file and original have the same
            most likely token.
        windows, context: the number of windows, and the tokens of the longest.
        text: the name of the text file, or `calibration.SAMPLED`.
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
        """Return the quality that an evaluation with a reference found on `windows` of `text`."""
        compared = found.compared()
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
    """The file that will be written: config and tokenizer are known, the tensors are not yet."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        goals: Mapping[str, float],
        preset: str | None,
        calibration: str,
        seed: int,
        text: str,
        most_tokens: int,
    ) -> None:
        """Set what is known before anything is measured.

        Args:
            checkpoint: the model to compress.
            goals, preset, calibration, seed: recorded in the provenance.
            text: the name of the text that the quality will be measured on, see `Quality`.
            most_tokens: an upper bound of the number of tokens of that text.
        """
        self._checkpoint = checkpoint
        self._goals = dict(goals)
        self._preset = preset
        self._calibration = calibration
        self._seed = seed
        tokenizer = checkpoint.tokenizer_json
        self._tokenizer = TokenizerFacts.of_json(tokenizer, checkpoint.tokenizer_missing)
        self._tokenizer_bytes = len(pack_tokenizer(tokenizer)) if tokenizer else None
        # Computes the size of the file from those of its tensors, at most a few bytes too large.
        provenance = self._largest_provenance(text, most_tokens)
        self.bytes = FileSize(checkpoint.config, self._tokenizer_bytes, provenance)

    def bits_per_weight(self, file_bytes: int) -> float:
        """Return the bits per weight of a file of `file_bytes` bytes, without its tokenizer."""
        return bits_per_weight(self._checkpoint.config, file_bytes, self._tokenizer_bytes or 0)

    def bits_per_weight_of(self, stored: Sequence[StoredTensor]) -> float:
        """Return the bits per weight of the file, given all its tensors."""
        return self.bits_per_weight(self.bytes(sizes_of(stored)))

    def write(
        self, path: Path, tensors: Sequence[StoredTensor], quality: Quality, *, force: bool
    ) -> int:
        """Write the file, and return its size in bytes.

        Args:
            path: the file to write.
            tensors: all tensors of the checkpoint, encoded.
            quality: recorded in the provenance.
            force: whether an existing file may be replaced.

        Raises:
            CheckpointError, NotFoundError, OutputError: as in `write_container`.
        """
        return write_container(
            path,
            config=self._checkpoint.config,
            tensors=tensors,
            tokenizer_json=self._checkpoint.tokenizer_json,
            provenance=self._provenance(dataclasses.asdict(quality)),
            force=force,
        )

    def _largest_provenance(self, text: str, most_tokens: int) -> int:
        """Return the largest number of bytes that the provenance can take, for any quality."""
        known = self._provenance({})
        fields = dataclasses.fields(Quality)
        count = len(known.extra) + len(fields)
        largest: dict[Any, int] = {str: packed_bytes(text), int: packed_bytes(most_tokens)}
        added = sum(
            packed_bytes(field.name) + largest.get(field.type, _FLOAT_BYTES) for field in fields
        )
        prefixes = container_prefix(count) - container_prefix(len(known.extra))
        return packed_bytes(known) + added + prefixes

    def _provenance(self, measured: Mapping[str, Any]) -> Provenance:
        return Provenance(
            source=_readable(public_name(self._checkpoint.source)),
            source_hash=self._checkpoint.source_hash,
            tool_version=__version__,
            preset=self._preset,
            calibration=_readable(self._calibration),
            seed=self._seed,
            extra=self._goals | dict(measured) | self._tokenizer.extras,
        )


class PartialFile:
    """A file of which some tensors are encoded already (`rate_control.FileBudget`)."""

    def __init__(
        self, file: OutputFile, stored: Sequence[StoredTensor], codecs: Mapping[str, str]
    ) -> None:
        """Set what is known.

        Args:
            file: the file that will be written.
            stored: the tensors that are encoded already.
            codecs: the name of the codec of each other tensor, by the tensor's name.
        """
        self._file = file
        self._known = {size.name: size for size in sizes_of(stored)}
        self._codecs = codecs

    def replace(self, stored: StoredTensor) -> None:
        """Take in a tensor that is encoded anew."""
        (self._known[stored.name],) = sizes_of([stored])

    def bits_per_weight(self, sizes: Mapping[str, int]) -> float:
        """Return the bits per weight of the file if the other tensors take `sizes` bytes."""
        others = [TensorSize(name, self._codecs[name], size) for name, size in sizes.items()]
        return self._file.bits_per_weight(self._file.bytes([*self._known.values(), *others]))


def sizes_of(stored: Sequence[StoredTensor]) -> list[TensorSize]:
    """Return the sizes of encoded tensors."""
    return [TensorSize(tensor.name, tensor.codec, len(tensor.data)) for tensor in stored]


def _readable(name: str) -> str:
    """Return a name with its invalid Unicode escaped."""
    return name.encode(errors="backslashreplace").decode()
