"""The way from a file to logits: `resident.load_model`, then a `session.Session`.

Weights stay integers in memory; a KV cache keeps what was computed; `warm_up` compiles the
kernels ahead of the first token and says so. The parallel regions are one a kernel; a plan
that runs a whole token on threads of its own belongs here, beside `Session`, which is all
that the later stages see of a model in use.
"""
