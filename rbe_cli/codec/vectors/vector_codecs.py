"""Define the codecs of vectors: `coded` (entropy-coded integers) and `scalar` (one value)."""

from typing import TYPE_CHECKING

from rbe_cli.codec.codec import Codec, CodecOptions, Data, EncodingJob, Payload, Shape
from rbe_cli.codec.vectors.dense_codec import FLOAT16

if TYPE_CHECKING:
    from rbe_cli.runtime.arrays import Float32

_SCALAR_BYTES = 4
_SURPLUS_BITS = 4.0  # per value, in addition to the bits per weight of the matrices
MOST_BITS = 16.0


class CodedCodec(Codec):
    """A codec that stores an offset plus entropy-coded multiples of a step (coded_vector.py)."""

    name = "coded"
    takes_matrices = False
    takes_vectors = True
    keeps_orientation = True
    needs_programs = True

    def expected_bits(self, options: CodecOptions, rate: float) -> float:
        """Return about the bits per value. Vectors are rounded more finely than matrices."""
        return min(rate + _SURPLUS_BITS, MOST_BITS)

    def decode(self, data: Data, shape: Shape) -> "Float32":
        """Return the values as float32. It raises as `Codec.decode`."""
        from rbe_cli.codec.vectors.coded_vector import decode_coded

        return decode_coded(data, shape)

    def encode(self, values: "Float32", job: EncodingJob) -> Payload:
        """Encode values in the fewest bytes whose errors are at most half of the job's step.

        Without a step they are stored as floating-point numbers.
        """
        if job.step is None:
            return FLOAT16.encode(values, job)
        from rbe_cli.codec.vectors.coded_vector import choose

        return Payload(*choose(values, job.step))


class ScalarCodec(Codec):
    """A codec that stores one value for all elements."""

    name = "scalar"
    takes_matrices = False
    takes_vectors = True
    keeps_orientation = True

    def exact_bytes(self, shape: Shape) -> int:
        """Return the bytes of one value."""
        return _SCALAR_BYTES

    def decode(self, data: Data, shape: Shape) -> "Float32":
        """Return the values as float32. It raises as `Codec.decode`."""
        from rbe_cli.codec.vectors.coded_vector import decode_scalar

        return decode_scalar(data, shape)

    def encode(self, values: "Float32", job: EncodingJob) -> Payload:
        """Encode the mean of the smallest and the largest value."""
        from rbe_cli.codec.vectors.coded_vector import encode_scalar

        return Payload(self.name, encode_scalar(values))


CODED = CodedCodec()
SCALAR = ScalarCodec()
