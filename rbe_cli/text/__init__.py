"""Text in, text out: tokenizer, token files, sampling, stop rules, and the generation loop.

The loop drives anything that keeps a KV cache and returns logits (`generation.Session`), so it
knows nothing of how a model is stored or computed.
"""
