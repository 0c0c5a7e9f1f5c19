"""Text in, text out: tokenizer, token files, sampling, stop rules, and the generation loop.

The loop drives any `generation.GenerationSession`, which keeps a KV cache and returns logits, so
it does not depend on how a model is stored or computed.
"""
