"""Plan each tensor: only this module resolves the settings and overrides."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rbe_cli.codec.codec import Codec, CodecOptions, SteppedCodec
from rbe_cli.codec.registry import codec_named
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.codec.vectors.dense_codec import FLOAT16
from rbe_cli.codec.vectors.vector_codecs import CODED
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.errors import UsageError
from rbe_cli.model.config import Gpt2Config
from rbe_cli.model.tensor_names import is_embedding, is_matrix, tensor_shapes

Role = Literal["embedding", "linear", "vector"]
# In tables, a smaller lambda gives less divergence at the same size (docs/design-notes.md).
_TABLE_RATE_WEIGHT = 0.125


@dataclass(frozen=True)
class TensorPlan:
    """The plan of how one tensor is stored.

    Attributes:
        name: canonical name.
        shape: shape in the checkpoint.
        role: the kind of the tensor in the model. A separate head counts as an embedding.
        codec: the codec that encodes it. The codec of vectors may choose a simpler one,
            depending on the values.
        options: the codec's options, from the settings.
        is_free: whether the target decides about codec and bits per weight.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    codec: Codec
    options: CodecOptions
    is_free: bool

    @property
    def size(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Return (K inputs, N outputs) of a matrix. Embeddings have the shape `[N, K]`."""
        rows, columns = self.shape[::-1] if self.role == "embedding" else self.shape
        return rows, columns

    @property
    def is_matrix(self) -> bool:
        """Return whether the tensor has two dimensions."""
        return self.role != "vector"

    @property
    def is_lossy_matrix(self) -> bool:
        """Return whether the tensor is a matrix with a lossy codec."""
        return self.is_matrix and not self.codec.is_exact

    def expected_bytes(self, rate: float) -> int:
        """Return about the bytes of the tensor, if free matrices have `rate` bits per weight."""
        return math.ceil(self.codec.expected_bits(self.options, rate) * self.size / 8)

    def stored_exactly(self, values: NDArray[np.float32]) -> "TensorPlan":
        """Return the plan that stores the values exactly: in float16 if possible, or float32."""
        options = replace(self.options, is_asked=True)
        codec = codec_named(dense_tensor.exact(values))
        return replace(self, codec=codec, options=options, is_free=False)


def make_plan(config: Gpt2Config, settings: Settings) -> list[TensorPlan]:
    """Plan every tensor of a model, in the checkpoint's order.

    Biases and LayerNorm parameters are entropy-coded if some matrix has a codec with
    quantisation steps and the objective is `kl`, because then the cost of their errors is known
    too. Otherwise they are stored in float16.
    """
    shapes = tensor_shapes(config)
    rules = {name: _rule(settings, name) for name in shapes}
    codecs = {
        name: codec_named(rule.codec or settings.default_codec) for name, rule in rules.items()
    }
    are_vectors_coded = settings.objective == "kl" and any(
        isinstance(codecs[name], SteppedCodec) for name in shapes if is_matrix(name)
    )
    plans = []
    for name, shape in shapes.items():
        codec, options = codecs[name], _options(settings, rules[name], name)
        is_free = isinstance(codec, SteppedCodec) and options.bits is None
        if not is_matrix(name) and not codec.is_exact:
            codec = CODED if are_vectors_coded else FLOAT16
            options = replace(options, is_asked=False)
        plans.append(TensorPlan(name, shape, _role(name), codec, options, is_free))
    return plans


def free_rate(plans: Sequence[TensorPlan], bits_per_weight: float, header: float = 0.0) -> float:
    """Return about the bits per weight that a target leaves for the free matrices, at least 1.

    Args:
        plans: the plans of all tensors.
        bits_per_weight: of the file.
        header: bits per weight of the parts of the file that are not tensors.

    Raises:
        UsageError: the other tensors alone exceed the target.
    """

    def total(rate: float) -> float:
        """Return the bits of all tensors, if free matrices have `rate` bits per weight."""
        return sum(own.codec.expected_bits(own.options, rate) * own.size for own in plans)

    wanted = (bits_per_weight - header) * sum(own.size for own in plans)
    if any(own.is_free and own.is_matrix for own in plans) and wanted <= total(0.0):
        raise UsageError(
            f"{bits_per_weight:.4g} bits a weight cannot be reached with these rules: "
            "the tensors that they fix are larger"
        )
    rate = 0.0
    for _ in range(4):  # the sum is concave and piecewise linear, so Newton's method is exact
        slope = total(rate + 1.0) - total(rate)
        rate += (wanted - total(rate)) / slope if slope else 0.0
    return max(rate, 1.0)


def with_exact(
    plans: Sequence[TensorPlan],
    tensors: Mapping[str, NDArray[np.float32]],
    names: set[str] | None = None,
) -> list[TensorPlan]:
    """Return the plans, with free tensors stored exactly.

    Args:
        plans: the plans of all tensors.
        tensors: the tensors of the checkpoint, whose values decide between float16 and float32.
        names: the tensors to store exactly; None for all that are free.
    """
    return [
        own.stored_exactly(tensors[own.name])
        if own.is_free and (names is None or own.name in names)
        else own
        for own in plans
    ]


def _rule(settings: Settings, name: str) -> Override:
    """Return the last rule that matches a name, or an empty rule if none does."""
    matching = [rule for rule in settings.override if re.search(rule.match, name)]
    return matching[-1] if matching else Override("")


def _options(settings: Settings, rule: Override, name: str) -> CodecOptions:
    return CodecOptions(
        bits=rule.bits or settings.default_bits,
        block=rule.block or settings.default_block,
        states=settings.states,
        max_integer=None if is_embedding(name) else settings.max_integer,
        rate_weight=_TABLE_RATE_WEIGHT if is_embedding(name) else CodecOptions.rate_weight,
        is_asked=True,
    )


def _role(name: str) -> Role:
    if is_embedding(name):
        return "embedding"
    return "linear" if is_matrix(name) else "vector"
