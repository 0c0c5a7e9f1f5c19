"""Check the kernels for CUDA against plain numpy, and time them on a GPU.

    pip install "rbe-cli[cuda]"
    python -m benchmarks.cuda --json cuda.json

It checks first, with fresh random inputs and outputs full of NaN, and times nothing if a check
fails. With NUMBA_ENABLE_CUDASIM=1 it only checks, in Numba's simulator. It was never run on a GPU.
"""
