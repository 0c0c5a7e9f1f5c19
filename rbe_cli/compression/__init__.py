"""Turns a checkpoint into a `.rbe` file: calibration, metric, encoding and rate control."""
