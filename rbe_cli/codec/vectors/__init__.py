"""Implement the codecs of vectors, and of tensors that are kept exactly.

`dense_codec` and `vector_codecs` define what the registry takes from here.
"""
