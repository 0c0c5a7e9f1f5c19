"""The arithmetic of a GPT-2, three times.

`table.load_kernels` hands out functions over plain arrays, for the layers of `rbe_cli.nn`: `fast`
ones, or their obvious numpy twins (`reference`), which the tests hold them to. Compiled programs,
for whole tokens, are functions of addresses: `simd` has vectors of 16 lanes, `dot` the exact
products of integers in each instruction set, `products` and `cached_attention` what is built of
them; `native` compiles a program and loads it without Numba, and a `team` of threads runs it.

A fast result depends neither on the number of threads nor, for one token, on the tokens computed
beside it. Importing this package imports neither Numba nor LLVM.
"""
