"""How compiled code is built, found and run, whatever it computes.

`libraries` lists every compiled program. `native.load` returns them as callables: their machine
code comes from the object files that ship with the package (`objects`), and is compiled
(`build`, `jit`) only where none of those fits. Importing this package imports neither Numba nor
LLVM.
"""
