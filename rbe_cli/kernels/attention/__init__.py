"""Compute causal attention. `attention_call` runs it over whole sequences of arrays, and the engine
calls `cached_attention` over the pages of a KV cache (`cache_pages`).
"""
