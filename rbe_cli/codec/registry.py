"""The codecs a `.rbe` file may name, with the version of each that this tool reads and writes."""

CODEC_VERSIONS: dict[str, int] = {
    "classic": 1,
    "coded": 1,
    "ectcq": 1,
    "fixed": 2,
    "float16": 1,
    "float32": 1,
    "scalar": 1,
}
"""Codec name -> version of its payload's layout; a change of layout is a new version."""
