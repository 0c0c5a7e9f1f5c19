"""Compare the layers, forward and backward, with torch and numpy.

    pip install "rbe-cli[train]"
    python -m benchmarks.layers --threads 2

Each comparison takes turns on the same input (`rbe_cli.bench.timing`), and shows how many times
as long the other takes: above 1, this project is faster. Weights are of 8 bits here and float32
in torch.
"""
