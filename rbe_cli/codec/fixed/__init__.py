"""Implement the codec `fixed`: 2, 4 or 8 bits a weight, resident as stored.

`fixed_codec.FixedCodec` is what the registry takes from here.
"""
