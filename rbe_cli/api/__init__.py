"""The public Python API: what `rbe_cli` exports, and what the verbs of the command line call.

It compresses checkpoints, loads models, and makes layers from arrays. The names are imported from
`rbe_cli` itself, which loads these modules when a name is first used.
"""
