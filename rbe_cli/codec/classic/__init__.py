"""Implement the codec `classic`: the original design's surfaces and transform coefficients.

`classic_codec.ClassicCodec` is what the registry takes from here.
"""
