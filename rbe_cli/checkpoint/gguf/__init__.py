"""Read and write GGUF files. `gguf_checkpoint.open_gguf` hands on a `Checkpoint`, and
`gguf_writer.write_gguf` takes one.
"""
