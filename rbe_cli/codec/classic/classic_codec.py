"""Define the codec `classic`: the scheme of the original design, kept for comparison."""

import math
from typing import TYPE_CHECKING

from rbe_cli.codec.codec import Codec, CodecOptions, Data, EncodingJob, Payload, Shape
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rbe_cli.codec.classic.classic_matrix import ClassicMatrix
    from rbe_cli.runtime.arrays import Float32
    from rbe_cli.weights.compressed_matrix import CompressedMatrix

MIN_BLOCK, MAX_BLOCK = 16, 256


class ClassicCodec(Codec):
    """A codec that stores smooth surfaces and a few transform coefficients (classic_matrix.py)."""

    name = "classic"

    def check_range(self, options: CodecOptions) -> None:
        """Raise `UsageError` if the blocks are too small or too large."""
        if not MIN_BLOCK <= options.block <= MAX_BLOCK:
            raise UsageError(f"block = {options.block} is not between {MIN_BLOCK} and {MAX_BLOCK}")

    def decode(self, data: Data, shape: Shape) -> "Float32":
        """Return the whole matrix `[K, N]`. It raises as `Codec.decode`."""
        return self.resident(data, shape).decode()

    def least_bytes(self, size: int, shape: Shape) -> int:
        """Return the bytes of the decoded weights, which are kept."""
        return 4 * math.prod(shape)

    def resident(self, data: Data, shape: Shape) -> "ClassicMatrix":
        """Return the matrix as factors and coefficients, which can be trained."""
        from rbe_cli.codec.classic.classic_matrix import ClassicMatrix

        rows, columns = shape
        return ClassicMatrix.from_bytes(data, (rows, columns))

    def encode(self, values: "Float32", job: EncodingJob) -> Payload:
        """Encode a matrix `[K, N]` at the bits per weight of its options, or at the job's rate."""
        from rbe_cli.codec.classic.classic_matrix import ClassicMatrix

        bits = job.options.bits or job.rate
        matrix = ClassicMatrix.encode(values, bits, job.options.block)
        return Payload(self.name, matrix.to_bytes())

    def with_parameters_of(self, data: Data, shape: Shape, weight: "CompressedMatrix") -> bytes:
        """Return the bytes of the matrix with the factors and coefficients of `weight`."""
        values = weight.parameters()
        return self.resident(data, shape).with_parameters(values).to_bytes()


CLASSIC = ClassicCodec()
