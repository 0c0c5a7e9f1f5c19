"""Define the codec `ectcq`: entropy-coded integers that a trellis search chooses."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rbe_cli.codec.codec import CodecOptions, Data, EncodingJob, Shape, SteppedCodec
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rbe_cli.codec.ectcq.coded_matrix import CodedMatrix
    from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix, HybridBlock
    from rbe_cli.codec.ectcq.trellis import QuantiserOptions
    from rbe_cli.codec.error_cost import ErrorCost
    from rbe_cli.runtime.arrays import Float32
    from rbe_cli.weights.compressed_matrix import CompressedMatrix
    from rbe_cli.weights.trellis_panels import TrellisPanels

_SAMPLE_COLUMNS = 64
_LEAST_STEP, _LARGEST_STEP = (
    1e-37,
    1e33,
)  # their products with any integer are normal numbers of float32


class EctcqCodec(SteppedCodec):
    """A codec that stores blocks of log-scales and entropy-coded integers (encoded_matrix.py)."""

    name = "ectcq"
    version = 2
    needs_programs = True
    has_coded_form = True
    gains_from_bases = True
    weighs_errors = True
    has_column_steps = True
    fixed_parameters = frozenset({".row_steps"})

    def check_range(self, options: CodecOptions) -> None:
        """Raise `UsageError` for a number of states or a largest integer that is not supported."""
        _quantiser(options)

    def decode(self, data: Data, shape: Shape) -> "Float32":
        """Return the whole matrix `[K, N]`. It raises as `Codec.decode`."""
        return _matrix(data, shape).decode()

    def resident(self, data: Data, shape: Shape) -> "TrellisPanels":
        """Return the integers in panels."""
        return self.coded(data, shape).decoded()

    def least_bytes(self, size: int, shape: Shape) -> int:
        """Return the bytes of panels whose integers take one bit."""
        from rbe_cli.weights.panel_layout import PANEL_COLUMNS, TILE_ROWS, VECTOR_BYTES

        rows, columns = shape
        return VECTOR_BYTES * -(-rows // TILE_ROWS) * -(-columns // PANEL_COLUMNS)

    def coded(self, data: Data, shape: Shape) -> "CodedMatrix":
        """Return the matrix in its stored form. It raises as `Codec.coded`."""
        from rbe_cli.codec.ectcq.coded_matrix import CodedMatrix

        return CodedMatrix(_matrix(data, shape))

    def parts(self, weights: "Float32", job: EncodingJob) -> Iterator[tuple[Any, ...]]:
        """Yield the arguments of `encode_part` for each block of columns."""
        import numpy as np

        from rbe_cli.codec.column_blocks import column_blocks

        cost, options = _cost(weights, job), _quantiser(job.options)
        ranges = column_blocks(weights.shape[1])
        for columns, outputs in zip(ranges, cost.outputs, strict=True):
            part = np.ascontiguousarray(weights[:, columns])
            yield part, _step(job), cost.inputs, outputs, cost.unit, options

    def encode_part(self, *arguments: Any) -> "HybridBlock":
        """Encode one block. The arguments are those of `encoded_matrix.encode_block`."""
        from rbe_cli.codec.ectcq.encoded_matrix import encode_block

        return encode_block(*arguments)

    def count_parts(self, shape: Shape) -> int:
        """Return the number of blocks of a matrix."""
        from rbe_cli.codec.column_blocks import column_blocks

        return len(column_blocks(shape[1]))

    def join(self, shape: Shape, parts: Sequence["HybridBlock"], job: EncodingJob) -> bytes:
        """Return the bytes of a matrix from its blocks."""
        from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix

        rows, columns = shape
        states = job.options.states
        return EncodedMatrix((rows, columns), _step(job), tuple(parts), states).to_bytes()

    def sample(self, weights: "Float32", job: EncodingJob) -> tuple[Any, ...]:
        """Return the arguments of `sampled_bits` for some evenly spaced columns."""
        import numpy as np

        cost, columns = _cost(weights, job), weights.shape[1]
        chosen = np.linspace(0, columns - 1, min(columns, _SAMPLE_COLUMNS)).astype(np.int64)
        part = np.ascontiguousarray(weights[:, chosen])
        outputs = cost.columns(chosen)
        return part, _step(job), cost.inputs, outputs, cost.unit, _quantiser(job.options)

    def sampled_bits(self, *arguments: Any) -> float:
        """Return the bits per weight of a sample, including its scales."""
        return 8.0 * self.encode_part(*arguments).nbytes / arguments[0].size

    def side_bits(self, shape: Shape) -> float:
        """Return about the bits of headers and scales, which do not make the weights finer."""
        from rbe_cli.codec.ectcq.encoded_matrix import side_bits

        rows, columns = shape
        return side_bits(rows, columns)

    def rescaled(self, data: Data, shape: Shape, factors: "Float32") -> bytes:
        """Return the same integers with each column's step times a factor `[N]` above 0."""
        return _matrix(data, shape).rescaled(factors).to_bytes()

    def with_parameters_of(self, data: Data, shape: Shape, weight: "CompressedMatrix") -> bytes:
        """Return the same integers with the column steps of `weight`, rounded to levels.

        Raises:
            UsageError: the row steps were changed, which this codec cannot store.
        """
        import numpy as np

        values = weight.parameters()
        if not (values[".row_steps"] == 1).all():
            raise UsageError(
                "the codec ectcq stores steps of columns only, but steps of rows were changed"
            )
        steps = np.concatenate([own for _, _, own in _matrix(data, shape).decoded_blocks()])
        return self.rescaled(data, shape, (values[".column_steps"] / steps).astype(np.float32))

    def plain_error_power(
        self, bits: float, shape: Shape, options: CodecOptions, relative_error: float
    ) -> float:
        """Return the power that rate-distortion theory gives for Gaussian weights."""
        rows, columns = shape
        return float(min(4.0 ** -(bits - self.side_bits(shape) / (rows * columns)), 1.0))


def _matrix(data: Data, shape: Shape) -> "EncodedMatrix":
    from rbe_cli.codec.ectcq.encoded_matrix import EncodedMatrix

    rows, columns = shape
    return EncodedMatrix.from_bytes(data, (rows, columns))


def _quantiser(options: CodecOptions) -> "QuantiserOptions":
    from rbe_cli.codec.ectcq.trellis import QuantiserOptions
    from rbe_cli.codec.entropy.entropy_model import MAX_INTEGER

    largest = MAX_INTEGER if options.max_integer is None else options.max_integer
    return QuantiserOptions(options.states, largest, options.rate_weight)


def _cost(weights: "Float32", job: EncodingJob) -> "ErrorCost":
    from rbe_cli.codec.error_cost import ErrorCost

    return job.cost or ErrorCost.even(weights.shape)


def _step(job: EncodingJob) -> float:
    """Return the step as a file stores it: limited to a range, and rounded to float32."""
    import numpy as np

    if job.step is None:
        raise ValueError("the codec ectcq needs a step")
    return float(np.float32(min(max(job.step, _LEAST_STEP), _LARGEST_STEP)))


ECTCQ = EctcqCodec()
