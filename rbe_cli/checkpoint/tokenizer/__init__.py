"""Finds, reads and converts the tokenizer of a checkpoint."""
