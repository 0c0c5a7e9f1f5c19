"""Reads files of `torch.save` without torch, and the checkpoints of training scripts."""
