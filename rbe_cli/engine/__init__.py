"""The way from a file to logits: `resident.load_model`, then a `session.Session`.

Weights stay in memory as they lie in the file, or in the fewest bits that hold their integers. A
`plan.Plan` is a model as records of addresses; `forward.forward` is the program that all threads
run on it, compiled once and kept; a `paged_cache.PagedCache` holds what was computed. `Session`
is all that the later stages see of a model in use. `ReferenceSession` and `warm_up` serve those
who go through the layers of `rbe_cli.nn` instead, where each step can be observed.
"""
