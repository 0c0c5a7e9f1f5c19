"""Opens GPT-2 checkpoints in whatever form they come: as a config, lazy tensors, a tokenizer.

`source.open_checkpoint` is the way in. It resolves what the user named (`source_name`, `hub`,
`weight_files`), lists the tensors of each file without reading them (`safetensors_file`,
`torch_file`), puts them under GPT-2's canonical names (`stored_names`, `assemble`) and finds the
tokenizer. What is no such checkpoint is named (`file_kind`, `unsupported_folders`,
`config_dialects`).
A GGUF file holds all parts itself (`gguf_checkpoint`).

`folder_writer` and `gguf_writer` write a checkpoint, one tensor at a time.
"""
