"""Products of tokens and matrices in panels."""
