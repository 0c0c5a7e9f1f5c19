"""Causal attention, over whole sequences and over a paged cache."""
