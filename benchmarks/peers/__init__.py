"""Compress the same checkpoint with other quantisers and with `rbe`, side by side.

    python -m benchmarks.peers demo
    python -m benchmarks.peers FOLDER --text HELD_OUT.txt --imatrix --plot curve.png

The extra `bench` has what the plot needs; K-quants need llama-cpp-python, which is compiled
when it is installed, and without it their rows are left out.

One file a scheme: `rtn`, `hqq`, `gptq`, `kquants`, `rbe_scheme`. Each gives a matrix's weights as
they decode and the bits they take; `measure` puts them into the model and scores it.
"""
