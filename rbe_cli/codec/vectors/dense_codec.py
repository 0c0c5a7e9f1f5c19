"""Define the codecs `float16` and `float32`, which store floating-point numbers."""

import math
from typing import TYPE_CHECKING, ClassVar

from rbe_cli.codec.codec import Codec, CodecOptions, Data, EncodingJob, Payload, Shape
from rbe_cli.errors import UsageError

if TYPE_CHECKING:
    from rbe_cli.codec.vectors.dense_tensor import DenseType
    from rbe_cli.runtime.arrays import Float32


class DenseCodec(Codec):
    """A codec that stores little-endian floating-point numbers in C order."""

    takes_vectors = True
    is_exact = True
    keeps_orientation = True
    item_bytes: ClassVar[int]
    dtype: ClassVar["DenseType"]

    def exact_bytes(self, shape: Shape) -> int:
        """Return the bytes of a tensor of this shape."""
        return self.item_bytes * math.prod(shape)

    def expected_bits(self, options: CodecOptions, rate: float) -> float:
        """Return the bits of a value, whatever the rate."""
        return 8.0 * self.item_bytes

    def decode(self, data: Data, shape: Shape) -> "Float32":
        """Return the values as float32. It raises as `Codec.decode`."""
        from rbe_cli.codec.vectors import dense_tensor

        return dense_tensor.decode(data, shape, self.dtype)


class Float16Codec(DenseCodec):
    """A codec of half precision, which gives way to float32 if rounding would lose too much."""

    name = "float16"
    item_bytes = 2
    dtype = "float16"

    def encode(self, values: "Float32", job: EncodingJob) -> Payload:
        """Encode values as float16. Unless it was asked for by name, float32 may be chosen.

        Raises:
            UsageError: float16 was asked for by name, and a value is beyond its range.
        """
        from rbe_cli.codec.vectors import dense_tensor

        if not job.options.is_asked:
            chosen = dense_tensor.choose(values)
            return Payload(chosen, dense_tensor.encode(values, chosen))
        if not dense_tensor.fits_float16(values):
            raise UsageError("there are values beyond the range of float16, which was asked for")
        return Payload(self.name, dense_tensor.encode(values, self.dtype))


class Float32Codec(DenseCodec):
    """A codec of single precision, which holds every value of a checkpoint."""

    name = "float32"
    item_bytes = 4
    dtype = "float32"

    def encode(self, values: "Float32", job: EncodingJob) -> Payload:
        """Encode values without a change."""
        from rbe_cli.codec.vectors import dense_tensor

        return Payload(self.name, dense_tensor.encode(values, self.dtype))


FLOAT16 = Float16Codec()
FLOAT32 = Float32Codec()
