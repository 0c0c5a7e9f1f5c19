"""Define the codec `fixed`: 2, 4 or 8 bits per weight, stored as they are used in memory."""

from typing import TYPE_CHECKING

from rbe_cli.codec.codec import Codec, CodecOptions, Data, EncodingJob, Payload, Shape
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rbe_cli.runtime.arrays import Float32
    from rbe_cli.weights.compressed_matrix import CompressedMatrix
    from rbe_cli.weights.uniform_panels import UniformPanels

_BITS = (2, 4, 8)


class FixedCodec(Codec):
    """A codec that stores levels, and steps of rows and columns (fixed_matrix.py)."""

    name = "fixed"
    version = oldest_version = 2
    is_kept_as_stored = True
    weighs_errors = True
    decides_columns_alone = True

    def check_bits(self, options: CodecOptions) -> None:
        """Raise `UsageError` unless the number of bits is 2, 4 or 8."""
        if options.bits not in _BITS:
            raise UsageError(f"the codec fixed needs bits = 2, 4 or 8, not {options.bits}")

    def decode(self, data: Data, shape: Shape) -> "Float32":
        """Return the whole matrix `[K, N]`. It raises as `Codec.decode`."""
        from rbe_cli.codec.fixed.fixed_matrix import FixedMatrix

        return FixedMatrix.from_bytes(data, _pair(shape)).decode()

    def resident(self, data: Data, shape: Shape) -> "UniformPanels":
        """Return the matrix in panels, which are a view of the bytes."""
        from rbe_cli.codec.fixed.fixed_matrix import FixedMatrix
        from rbe_cli.weights.uniform_panels import UniformPanels

        fixed = FixedMatrix.from_bytes(data, _pair(shape))
        steps = fixed.row_steps, fixed.column_steps
        return UniformPanels(fixed.values.reshape(-1), fixed.layout, *steps, fixed.shape)

    def encode(self, values: "Float32", job: EncodingJob) -> Payload:
        """Encode a matrix `[K, N]` with error feedback.

        Raises:
            UsageError: the number of bits is not 2, 4 or 8.
        """
        from rbe_cli.codec.error_cost import ErrorCost
        from rbe_cli.codec.fixed.fixed_encoder import encode_matrix

        self.check_bits(job.options)
        cost = job.cost or ErrorCost.even(values.shape)
        matrix = encode_matrix(values, int(job.options.bits or 0), cost.inputs, cost.outputs)
        return Payload(self.name, matrix.to_bytes())

    def with_parameters_of(self, data: Data, shape: Shape, weight: "CompressedMatrix") -> bytes:
        """Return the same codes with the steps of `weight`, rounded to levels."""
        from rbe_cli.codec.fixed.fixed_matrix import FixedMatrix

        values = weight.parameters()
        matrix = FixedMatrix.from_bytes(data, _pair(shape))
        return matrix.with_steps(values[".row_steps"], values[".column_steps"]).to_bytes()

    def plain_error_power(
        self, bits: float, shape: Shape, options: CodecOptions, relative_error: float
    ) -> float:
        """Return the codec's own error power, limited to 2 ** -bits.

        The error depends on the largest weight of each row, so that no law for the rate alone
        holds. The limit finds faults such as 8 bits with errors as large as the weights.
        """
        return min(relative_error**2, 2.0 ** -(options.bits or 0.0))


def _pair(shape: Shape) -> tuple[int, int]:
    rows, columns = shape
    return rows, columns


FIXED = FixedCodec()
