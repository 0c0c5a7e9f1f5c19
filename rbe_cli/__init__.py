"""Compresses GPT-2 checkpoints into `.rbe` files and runs them."""

__version__ = "0.1.0"
