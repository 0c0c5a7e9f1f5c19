"""Define what a codec is: everything that the rest of the program knows about one.

A codec turns a tensor into bytes and back. The registry (registry.py) lists all of them; no
other code compares the names of codecs. Importing this module imports neither numpy nor any
codec's arithmetic, so that a file's header can be checked at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rbe_cli.codec.error_cost import ErrorCost
    from rbe_cli.runtime.arrays import Float32
    from rbe_cli.weights.compressed_matrix import CompressedMatrix
    from rbe_cli.weights.weight_forms import Weight

Shape = tuple[int, ...]
Data = bytes | memoryview


@dataclass(frozen=True)
class CodecOptions:
    """The settings of one tensor's codec. Each codec reads the fields that concern it.

    Attributes:
        bits: bits per weight; None for a share of the file's target.
        block: rows and columns of the blocks of `classic`.
        states: number of states of the trellis of `ectcq`.
        max_integer: largest integer that `ectcq` may use; None for all that it can code.
        rate_weight: lambda of the search of `ectcq`, squared steps per bit.
        is_asked: whether the settings name the codec, so that no other may take its place.
    """

    bits: float | None = None
    block: int = 64
    states: int = 8
    max_integer: int | None = None
    rate_weight: float = 0.25
    is_asked: bool = False


@dataclass(frozen=True)
class EncodingJob:
    """What an encoder needs beside the values.

    Attributes:
        options: the options of the tensor.
        rate: about the bits per weight of a matrix whose options give no bits.
        cost: the cost of an error in each weight; None if it was not measured.
        step: the quantisation step; None if the codec finds its own.
    """

    options: CodecOptions = CodecOptions()
    rate: float = 4.0
    cost: "ErrorCost | None" = None
    step: float | None = None


class Payload(NamedTuple):
    """Hold an encoded tensor: the name of the codec that reads it, and its bytes."""

    codec: str
    data: bytes


class Codec(ABC):
    """Define one way to store a tensor.

    A matrix is `[K inputs, N outputs]`, float32, unless `keeps_orientation` is set.

    Attributes:
        name: name in the header of a file and in settings.
        version: version of the layout of its bytes. A change of layout is a new version.
        oldest_version: the oldest version whose bytes it still reads, as those of `version`.
        takes_matrices, takes_vectors: which tensors may have this codec.
        is_exact: whether it stores the values as floating-point numbers.
        keeps_orientation: whether a matrix is stored as the checkpoint holds it: embeddings are
            then `[rows, n_embd]`.
        needs_programs: whether decoding runs compiled programs.
        is_kept_as_stored: whether the resident form of a matrix is a view of its bytes.
        has_coded_form: whether a matrix can stay encoded in memory.
        gains_from_bases: whether matrices take fewer bits in other bases of attention's heads
            (ectcq/head_bases.py) and of the residual stream (stream_rotation.py).
        weighs_errors: whether the encoder uses the cost of errors, so that weights not yet
            written make up for the errors of others.
        decides_columns_alone: whether the encoder decides one column after the other, not some
            together.
        has_column_steps: whether `rescaled` can multiply each column by a factor.
        fixed_parameters: suffixes of the parameters of a resident form that no file can change.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    oldest_version: ClassVar[int] = 1
    takes_matrices: ClassVar[bool] = True
    takes_vectors: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False
    keeps_orientation: ClassVar[bool] = False
    needs_programs: ClassVar[bool] = False
    is_kept_as_stored: ClassVar[bool] = False
    has_coded_form: ClassVar[bool] = False
    gains_from_bases: ClassVar[bool] = False
    weighs_errors: ClassVar[bool] = False
    decides_columns_alone: ClassVar[bool] = False
    has_column_steps: ClassVar[bool] = False
    fixed_parameters: ClassVar[frozenset[str]] = frozenset()

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """Pickle the codec by its name, because a process has one object for each codec."""
        from rbe_cli.codec.registry import codec_named

        return codec_named, (self.name,)

    def exact_bytes(self, shape: Shape) -> int | None:
        """Return the bytes of a tensor if they follow from its shape, else None."""
        return None

    def least_bytes(self, size: int, shape: Shape) -> int:
        """Return the bytes that a matrix takes at least in the form in which a model uses it.

        Args:
            size: bytes of its payload.
            shape: (K, N).
        """
        return size

    def check_range(self, options: CodecOptions) -> None:  # noqa: B027 - most have no options
        """Refuse values of this codec's own options that are out of range.

        Raises:
            UsageError: a value is out of range. The message names the option and the value.
        """

    def check_bits(self, options: CodecOptions) -> None:  # noqa: B027 - most take any number
        """Refuse a number of bits at which this codec cannot encode.

        Raises:
            UsageError: the codec cannot encode at this number. The message says what it needs.
        """

    @abstractmethod
    def decode(self, data: Data, shape: Shape) -> "Float32":
        """Return the values as float32.

        Raises:
            PayloadError: the bytes are not a tensor of this shape, or a value is not finite.
        """

    def resident(self, data: Data, shape: Shape) -> "Weight":
        """Return the form in which a model keeps the tensor in memory. It raises as `decode`."""
        return self.decode(data, shape)

    def coded(self, data: Data, shape: Shape) -> "CompressedMatrix":
        """Return a matrix that stays encoded in memory, if `has_coded_form`.

        Raises:
            PayloadError: the bytes are not a matrix of this shape.
        """
        raise NotImplementedError(f"the codec {self.name} has no form that stays encoded")

    @abstractmethod
    def encode(self, values: "Float32", job: EncodingJob) -> Payload:
        """Encode finite values.

        Raises:
            UsageError: the codec was asked for by name and cannot hold the values.
        """

    def expected_bits(self, options: CodecOptions, rate: float) -> float:
        """Return about the bits per weight, in a file whose free matrices have `rate`."""
        return rate if options.bits is None else options.bits

    def rescaled(self, data: Data, shape: Shape, factors: "Float32") -> bytes:
        """Return the same integers with each column's step times a factor `[N]` above 0."""
        raise NotImplementedError(f"the codec {self.name} has no steps of columns")

    def with_parameters_of(self, data: Data, shape: Shape, weight: "CompressedMatrix") -> bytes:
        """Return the bytes of a matrix whose resident form has other parameters now.

        Args:
            data: bytes of the matrix before.
            shape: (K, N).
            weight: the resident form with its changed parameters.

        Raises:
            UsageError: the codec cannot store such parameters.
        """
        raise UsageError(f"the codec {self.name} has no parameters that can be changed")

    def plain_error_power(
        self, bits: float, shape: Shape, options: CodecOptions, relative_error: float
    ) -> float:
        """Return the power of errors that plain rounding should make, over that of the weights.

        Args:
            bits: bits per weight that the tensor takes.
            shape: shape of the tensor.
            options: the options of the tensor.
            relative_error: the codec's error, a relative Frobenius norm. It gives the answer if
                no law for the rate is known.
        """
        return min(relative_error**2, 1.0)


class SteppedCodec(Codec):
    """Define a codec of matrices whose size follows from a quantisation step.

    Rate control finds the steps at which a file has the wanted size. It encodes the parts of a
    matrix in parallel, and predicts the size of a matrix from a sample of its columns.
    """

    @abstractmethod
    def parts(self, weights: "Float32", job: EncodingJob) -> Iterator[tuple[Any, ...]]:
        """Yield the arguments of `encode_part` for each part of a matrix."""

    @abstractmethod
    def encode_part(self, *arguments: Any) -> Any:
        """Encode a part of a matrix."""

    @abstractmethod
    def count_parts(self, shape: Shape) -> int:
        """Return the number of parts of a matrix."""

    @abstractmethod
    def join(self, shape: Shape, parts: Sequence[Any], job: EncodingJob) -> bytes:
        """Return the bytes of a matrix from its encoded parts."""

    @abstractmethod
    def sample(self, weights: "Float32", job: EncodingJob) -> tuple[Any, ...]:
        """Return the arguments of `sampled_bits` for some columns of a matrix."""

    @abstractmethod
    def sampled_bits(self, *arguments: Any) -> float:
        """Return the bits per weight of a sample, without the parts that only matrices have."""

    @abstractmethod
    def side_bits(self, shape: Shape) -> float:
        """Return about the bits of headers and scales, which do not make the weights finer."""

    def encode(self, values: "Float32", job: EncodingJob) -> Payload:
        """Encode a matrix part by part."""
        parts = [self.encode_part(*arguments) for arguments in self.parts(values, job)]
        return Payload(self.name, self.join(values.shape, parts, job))
