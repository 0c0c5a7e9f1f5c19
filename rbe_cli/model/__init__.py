"""Define what a GPT-2 is: its configuration, and the names and shapes of its tensors.

`config.Gpt2Config` and `tensor_names.tensor_shapes` are what every other folder takes from here.
"""
