"""The file that a compression makes: its size before it is written, and its writing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rbe_cli import __version__
from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.checkpoint.source_name import public_name
from rbe_cli.container.geometry import bits_per_weight
from rbe_cli.container.header import Provenance
from rbe_cli.container.tensor import StoredTensor
from rbe_cli.container.tokenizer import pack_tokenizer
from rbe_cli.container.writer import container_bytes, write_container


@dataclass(frozen=True)
class Quality:
    """Measured on calibration text that the codec did not see."""

    kl_divergence: float
    perplexity: float
    reference_perplexity: float
    tokens: int


class OutputFile:
    """A file of a checkpoint's config and tokenizer, with tensors to come."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        goals: Mapping[str, float],
        preset: str | None,
        calibration: str,
        seed: int,
    ) -> None:
        """Args:
        checkpoint: what is compressed.
        goals, preset, calibration, seed: for the provenance.
        """
        self._checkpoint = checkpoint
        self._goals = dict(goals)
        self._preset = preset
        self._calibration = calibration
        self._seed = seed
        tokenizer = checkpoint.tokenizer_json
        self._tokenizer_bytes = len(pack_tokenizer(tokenizer)) if tokenizer else None

    def size(self, tensors: Iterable[StoredTensor], matrices: Mapping[str, int]) -> float:
        """Bits a weight of the file with these tensors, and matrices of so many bytes to come."""
        parts = [(tensor.name, tensor.codec, len(tensor.data)) for tensor in tensors]
        parts += [(name, "ectcq", count) for name, count in matrices.items()]
        file_bytes = container_bytes(
            config=self._checkpoint.config,
            tensors=parts,
            tokenizer_bytes=self._tokenizer_bytes,
            provenance=self._provenance(Quality(0.0, 0.0, 0.0, 0)),
        )
        return self.bits_per_weight(file_bytes)

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

    def _provenance(self, quality: Quality) -> Provenance:
        return Provenance(
            source=_readable(public_name(self._checkpoint.source)),
            source_hash=self._checkpoint.source_hash,
            tool_version=__version__,
            preset=self._preset,
            calibration=_readable(self._calibration),
            seed=self._seed,
            extra=self._goals | asdict(quality),
        )


def _readable(name: str) -> str:
    """A name that is not Unicode, escaped."""
    return name.encode(errors="backslashreplace").decode()
