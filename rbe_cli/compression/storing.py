"""Gives every tensor of a checkpoint its form in the file."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix
from rbe_cli.codec.fixed.fixed_encoder import encode_matrix
from rbe_cli.codec.fixed.fixed_matrix import FixedMatrix
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.codec.vectors.coded_vector import choose
from rbe_cli.compression.encoding import Cost, Source, encode_all
from rbe_cli.compression.metric import Metric, as_matrix
from rbe_cli.compression.rate_control import fit, rate_factor
from rbe_cli.compression.rates import are_vectors_coded, matrix_rate
from rbe_cli.compression.settings import Settings
from rbe_cli.container.file_layout import DENSE_ITEM_BYTES
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.errors import UsageError
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import Workers
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_matrix
from rbe_cli.progress import Progress

Float32 = NDArray[np.float32]
_SURPLUS = 0.016  # of a step, at 0 bits: what reconstructed matrices would be larger by
Size = Callable[[Sequence[StoredTensor], Mapping[str, int]], float]


class Storing:
    """Stores a checkpoint's tensors at a size that is asked for."""

    def __init__(
        self,
        config: Gpt2Config,
        tensors: Mapping[str, Float32],
        settings: Settings,
        metric: Metric,
        size: Size,
        workers: Workers,
        folder: WorkFolder,
        progress: Progress,
    ) -> None:
        """Args:
        config, tensors: of the checkpoint.
        settings: say which codec a tensor has.
        metric: what errors cost.
        size: bits a weight of a file of these tensors, and of matrices of so many bytes.
        workers, folder: encode, and keep what is encoded.
        progress: told after each matrix.
        """
        self._config = config
        self._tensors = tensors
        self._settings = settings
        self._metric = metric
        self._size = size
        self._workers = workers
        self._folder = folder
        self._progress = progress
        self._factor: float | None = None  # of the last file's unit steps

    def store(self, bits_per_weight: float, most: float = math.inf) -> list[StoredTensor]:
        """All tensors, in the checkpoint's order.

        Args:
            bits_per_weight: of the file, which holds if any matrix's rate is free.
            most: bits a weight of the file that must not be exceeded.

        Raises:
            UsageError: the size cannot be reached.
        """
        rate = matrix_rate(self._config, self._settings, bits_per_weight)
        by_codec: dict[str, list[str]] = {}
        for name in self._tensors:
            codec = self._settings.codec(name) if is_matrix(name) else "vector"
            by_codec.setdefault(codec, []).append(name)
        sources = {name: self._source(name) for name in by_codec.pop("ectcq", [])}
        self._factor = rate_factor(sources.values(), rate) if sources else None
        stored = [self.vector(name, self._tensors[name]) for name in by_codec.pop("vector")]
        stored += self._classic(by_codec.pop("classic", []), rate)
        stored += self._fixed(by_codec.pop("fixed", []))
        stored += [
            self._dense(name, self._tensors[name]) for names in by_codec.values() for name in names
        ]
        own = {name: bits for name in sources if (bits := self._settings.bits(name)) is not None}
        size = partial(self._size, stored)
        encoded = fit(
            sources, own, bits_per_weight, size, self._workers, self._folder, self._progress, most
        )
        stored += [
            StoredTensor(name, self._tensors[name].shape, "ectcq", matrix.to_bytes())
            for name, matrix in encoded.items()
        ]
        by_name = {tensor.name: tensor for tensor in stored}
        return [by_name[name] for name in self._tensors]

    def _source(self, name: str) -> Source:
        return Source(
            as_matrix(name, self._tensors[name]),
            self._metric.unit_steps[name],
            partial(self._metric.cost, name),
            self._settings.quantiser(name),
        )

    def vector(self, name: str, values: Float32) -> StoredTensor:
        """A bias or LayerNorm parameter, in a file like the last one.

        Its error is held to a quarter of what would be worth its bits, so that it does not show.
        """
        is_kept = self._settings.codec(name) in DENSE_ITEM_BYTES
        is_coded = are_vectors_coded(self._config, self._settings)
        if is_kept or self._factor is None or not is_coded:
            return self._dense(name, values)
        mean = float(np.mean(self._metric.squares[name]))
        # Where nothing depends on the vector, nothing says what errors would cost: hardly any.
        step = self._factor / math.sqrt(mean) / 2 if mean > 0 else 0.0
        step = min(max(step, 1e-6 * float(np.abs(values).max())), 1e30) or 1.0
        codec, data = choose(values, step)
        return StoredTensor(name, values.shape, codec, data)

    def encode_again(self, stored: StoredTensor, weights: Float32, cost: Cost) -> StoredTensor:
        """A layer's matrix with other weights `[K, N]`, in about as many bytes.

        Args:
            stored: it, by a codec with feedback.
            weights: that it shall have.
            cost: of errors in them.
        """
        name = stored.name
        if stored.codec == "fixed":
            bits = FixedMatrix.from_bytes(stored.data, stored.matrix_shape).bits
            encode = _encode_fixed, (weights,), (bits,), (cost,)
            return replace(stored, data=next(self._workers.map(*encode)))
        before = EncodedMatrix.from_bytes(stored.data, stored.matrix_shape)
        source = Source(weights, 1.0, lambda: cost, self._settings.quantiser(name))
        step = before.step * (1 + _SURPLUS * 2.0 ** (-8 * before.nbytes / weights.size))
        ((_, after),) = encode_all({name: source}, {name: step}, self._workers)
        return replace(stored, data=after.to_bytes())

    def _dense(self, name: str, tensor: Float32) -> StoredTensor:
        asked = self._settings.codec(name)
        codec = asked if asked in ("float16", "float32") else dense_tensor.choose(tensor)
        if codec == "float16" and np.abs(tensor).max() > np.finfo(np.float16).max:
            raise UsageError(f"{name} has values beyond the range of float16, which was asked for")
        return StoredTensor(name, tensor.shape, codec, dense_tensor.encode(tensor, codec))

    def _fixed(self, names: Sequence[str]) -> Iterator[StoredTensor]:
        """Matrices of a fixed rate."""
        bits = [int(self._settings.bits(name) or 0) for name in names]
        weights = (as_matrix(name, self._tensors[name]) for name in names)
        costs = (self._metric.cost(name) for name in names)
        if names:
            self._progress("encoding", 0, len(names))
        encoded = self._workers.map(_encode_fixed, weights, bits, costs)
        for done, (name, data) in enumerate(zip(names, encoded, strict=True), 1):
            self._progress("encoding", done, len(names))
            yield StoredTensor(name, self._tensors[name].shape, "fixed", data)

    def _classic(self, names: Sequence[str], rate: float) -> Iterator[StoredTensor]:
        """Matrices of the classic scheme, at `rate` unless they have one of their own."""
        settings = self._settings
        weights = (as_matrix(name, self._tensors[name]) for name in names)
        bits = [settings.bits(name) or rate for name in names]
        blocks = [settings.block(name) for name in names]
        encoded = self._workers.map(_encode_classic, weights, bits, blocks)
        for name, data in zip(names, encoded, strict=True):
            yield StoredTensor(name, self._tensors[name].shape, "classic", data)


def _encode_fixed(weights: Float32, bits: int, cost: Cost) -> bytes:
    return encode_matrix(weights, bits, cost.inputs, cost.outputs).to_bytes()


def _encode_classic(weights: Float32, bits: float, block: int) -> bytes:
    return ClassicMatrix.encode(weights, bits, block).to_bytes()
