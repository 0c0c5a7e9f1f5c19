"""Activation functions and their derivatives."""
