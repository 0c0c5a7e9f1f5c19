"""Implement the codec `ectcq`: integers chosen by a trellis with error feedback, entropy-coded.

`ectcq_codec.EctcqCodec` is what the registry takes from here, and compression/ takes `head_bases`.
"""
