"""Find, read and convert the tokenizer of a checkpoint. `tokenizer_files.read_tokenizer` hands on
one `tokenizer.json`, with notes for the user.
"""
