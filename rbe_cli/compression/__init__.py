"""Compress a checkpoint to a `.rbe` file: settings, plan, calibration, metric, encoding.

`pipeline.compress` runs the stages in order, and `container/` writes the tensors they give.
`decompression.py` converts a file back to a checkpoint.
"""
