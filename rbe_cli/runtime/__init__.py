"""Build, find and run compiled code, whatever it computes.

`libraries` lists every compiled program. `native.load` returns them as callables: their machine
code comes from the object files that ship with the package (`object_files`), and is compiled
(`build`, `jit`) only where none of those fits. Importing this package imports neither Numba nor
LLVM.
"""
