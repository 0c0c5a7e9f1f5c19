"""Turn a tensor into bytes and back, and into the form that a model keeps in memory.

`registry.codec_named` hands on the `Codec` objects. Each codec has a folder, and shares the rANS
coder (`entropy`) and the cost of errors (`error_cost`) with the others.
"""
