"""Hold GPT-2 as clear classes, which compute with whichever kernels they are given.

    Gpt2: Embedding (tokens, positions) -> TransformerBlock ... -> LayerNorm -> Linear (head)
    TransformerBlock: LayerNorm -> Attention -> + -> LayerNorm -> FeedForward -> +

What goes from layer to layer is `[batch, seq, ...]`, of the parameters' type: float32, or float64
with the reference kernels. A matrix is an array or one of the compressed forms of
`rbe_cli/weights`, always `[K inputs, N outputs]`; embeddings are `[n_embd, rows]`, so that a tied
head is the same matrix as the embedding. docs/python.md shows how to use the layers.
"""
