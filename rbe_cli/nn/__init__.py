"""GPT-2 as clear classes, computed by whichever kernels they are given.

    Gpt2: Embedding (tokens, positions) -> TransformerBlock ... -> LayerNorm -> Linear (head)
    TransformerBlock: LayerNorm -> Attention -> + -> LayerNorm -> FeedForward -> +

Activations are `[batch, seq, ...]`, of the parameters' type: float32, or float64 with the reference
kernels. A matrix is either dense float32 or a
`PanelMatrix` of integers or levels (weights/panel_matrix.py), always `[K inputs, N outputs]`;
embeddings are `[n_embd, rows]`, so that a tied head is the same matrix as the embedding.
"""
