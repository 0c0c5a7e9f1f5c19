"""Compute layer normalisation, forward and backward. `layer_norm_call` runs it on arrays, and
other programs call `layer_norm_program` row by row.
"""
