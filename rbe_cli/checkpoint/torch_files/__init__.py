"""Read files of `torch.save` without torch, and the checkpoints of training scripts.
`torch_file.read_torch_file` hands on the tensors, which are read when they are asked for.
"""
