"""Read and write GPT-2 checkpoints in the forms that others use.

`source.open_checkpoint` opens a folder, a file or a model of the hub, and hands on a `Checkpoint`:
a config, tensors that are read when they are asked for, and a tokenizer. `folder_writer` and
`gguf_writer` write a checkpoint, one tensor at a time.

`source_name`, `hub` and `weight_files` find the files. `safetensors_file` and `torch_file` list
their tensors, and `stored_names` and `assemble` put these under canonical names. A GGUF file holds
all parts itself (`gguf_checkpoint`). `file_kind` and `unsupported_folders` name what is no
checkpoint.
"""
