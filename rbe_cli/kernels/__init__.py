"""Compute the layers of a GPT-2 on arrays, fast or in plain numpy.

`kernel_table.load_kernels` hands on a table of functions over arrays, for the layers of
`rbe_cli.nn`: `fast` ones, or the `reference` in numpy (`numpy_twins`), which tests hold the fast
ones to. The engine calls the compiled programs themselves, by their addresses.

Each operation has a folder: its `..._call` runs it on arrays with a team of threads, and its
`..._program` is the compiled side. A fast result depends neither on the number of threads nor, for
one token, on the tokens computed beside it. Importing this package imports neither Numba nor LLVM.
"""
