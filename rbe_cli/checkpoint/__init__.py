"""Opens GPT-2 checkpoints in whatever form they come: as a config, lazy tensors, a tokenizer.

`source.open_checkpoint` is the way in. It resolves what the user named (`hub`, `weight_files`),
lists the tensors of each file without reading them (`safetensors_file`, `torch_pickle`), puts
them under GPT-2's canonical names (`assemble`, `names`) and finds the tokenizer.
"""
