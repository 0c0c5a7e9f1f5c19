"""The file that a compression makes: its size before it is written, and its writing."""

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

_FLOAT_BYTES = 9  # of a number as msgpack


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
    """A file of a checkpoint's config and tokenizer, with tensors to come."""

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
        """Take what is known before anything is measured.

        Args:
            checkpoint: what is compressed.
            goals, preset, calibration, seed: for the provenance.
            text: what the quality will be measured on, see `Quality`.
            most_tokens: upper bound of the tokens that it will be measured on.
        """
        self._checkpoint = checkpoint
        self._goals = dict(goals)
        self._preset = preset
        self._calibration = calibration
        self._seed = seed
        tokenizer = checkpoint.tokenizer_json
        self._tokenizer = TokenizerFacts.of_json(tokenizer, checkpoint.tokenizer_missing)
        self._tokenizer_bytes = len(pack_tokenizer(tokenizer)) if tokenizer else None
        # Bytes of the file, from the sizes of its tensors; at most a few more than it will have.
        provenance = self._largest_provenance(text, most_tokens)
        self.bytes = FileSize(checkpoint.config, self._tokenizer_bytes, provenance)

    def bits_per_weight(self, file_bytes: int) -> float:
        """Of a file of so many bytes, its tokenizer not counted."""
        return bits_per_weight(self._checkpoint.config, file_bytes, self._tokenizer_bytes or 0)

    def bits_per_weight_of(self, stored: Sequence[StoredTensor]) -> float:
        """Return the bits a weight of the file with these tensors, which are all."""
        return self.bits_per_weight(self.bytes(sizes_of(stored)))

    def write(
        self, path: Path, tensors: Sequence[StoredTensor], quality: Quality, *, force: bool
    ) -> int:
        """Write it; returns its bytes."""
        return write_container(
            path,
            config=self._checkpoint.config,
            tensors=tensors,
            tokenizer_json=self._checkpoint.tokenizer_json,
            provenance=self._provenance(dataclasses.asdict(quality)),
            force=force,
        )

    def _largest_provenance(self, text: str, most_tokens: int) -> int:
        """Return the most bytes that the provenance may take, whatever quality is measured."""
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
    """A file some of whose tensors are encoded already."""

    def __init__(
        self, file: OutputFile, stored: Sequence[StoredTensor], codecs: Mapping[str, str]
    ) -> None:
        """Take what is known.

        Args:
            file: that is to come.
            stored: tensors that are encoded.
            codecs: name of the codec of each other tensor, by its name.
        """
        self._file = file
        self._known = sizes_of(stored)
        self._codecs = codecs

    def bits_per_weight(self, sizes: Mapping[str, int]) -> float:
        """Return the bits a weight of the file if the other tensors take so many bytes."""
        others = [TensorSize(name, self._codecs[name], size) for name, size in sizes.items()]
        return self._file.bits_per_weight(self._file.bytes([*self._known, *others]))


def sizes_of(stored: Sequence[StoredTensor]) -> list[TensorSize]:
    """Return the sizes of encoded tensors."""
    return [TensorSize(tensor.name, tensor.codec, len(tensor.data)) for tensor in stored]


def _readable(name: str) -> str:
    """A name that is not Unicode, escaped."""
    return name.encode(errors="backslashreplace").decode()
