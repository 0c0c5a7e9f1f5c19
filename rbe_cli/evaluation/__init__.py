"""Measure a model on text: perplexity, KL divergence and the errors of each layer.

`evaluate.evaluate` scores windows of text (`batching`), `forward_pass` runs one sequence, and
`file_difference` compares two `.rbe` files without running them.
"""
