"""The way from a file to logits: `load.load_model`, then a `session.Session`.

Weights stay in memory as they lie in the file, or in the fewest bits that hold their integers. An
`AddressLayout` says where they lie; a `Runner` has the memory to compute in and runs the forward
program, which is compiled once and kept, on all threads; `CodedLayers` are decoded on use; a
`PagedCache` holds keys and values. `Session` is all that the later stages see of a model in use.
`LayerSession` and `warm_up` serve those who go through the layers of `rbe_cli.nn` instead, where
each step can be observed.
"""
