"""GPT-2 on an NVIDIA GPU: kernels written for numba-cuda, and a session that runs them.

Nothing here is imported before `--backend cuda` asks for it; `device` is imported first, and says
what is missing. docs/cuda.md tells how it was tested.
"""
