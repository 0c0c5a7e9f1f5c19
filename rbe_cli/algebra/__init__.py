"""Compute linear algebra and elementary functions, with the same bits on every CPU."""
