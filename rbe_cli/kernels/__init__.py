"""Pure functions over plain arrays: the arithmetic of a GPT-2, twice.

`table.load_kernels` hands out either the Numba kernels (`fast`) or their obvious numpy
twins (`reference`), which the tests hold them to. Kernels take arrays and write to `out`;
a fast kernel's result depends neither on the number of threads nor, for one token, on the
tokens computed beside it. Importing this package imports neither of the two.
"""
