"""Measures a model on text: perplexity, KL divergence and the errors of each layer."""
