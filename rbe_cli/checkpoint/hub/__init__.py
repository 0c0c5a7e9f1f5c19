"""Reads checkpoints and `.rbe` files from the Hugging Face hub and its cache."""
