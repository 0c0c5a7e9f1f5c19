"""List all codecs that a `.rbe` file may name."""

from rbe_cli.codec.classic.classic_codec import CLASSIC
from rbe_cli.codec.codec import Codec
from rbe_cli.codec.ectcq.ectcq_codec import ECTCQ
from rbe_cli.codec.fixed.fixed_codec import FIXED
from rbe_cli.codec.vectors.dense_codec import FLOAT16, FLOAT32
from rbe_cli.codec.vectors.vector_codecs import CODED, SCALAR

CODECS: dict[str, Codec] = {
    codec.name: codec for codec in (CLASSIC, CODED, ECTCQ, FIXED, FLOAT16, FLOAT32, SCALAR)
}
"""Name -> codec."""


def codec_named(name: str) -> Codec:
    """Return a codec of the registry.

    Raises:
        KeyError: there is no codec of this name. Readers check it first (container/validate.py).
    """
    return CODECS[name]


def matrix_codec_names() -> list[str]:
    """Return the names of the codecs that settings may ask for a matrix."""
    return [codec.name for codec in CODECS.values() if codec.takes_matrices]
