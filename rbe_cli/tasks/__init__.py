"""Drivers that join the stages: compress, evaluate, bench."""
