"""The entropy coder: the probability model of integers, and rANS."""
