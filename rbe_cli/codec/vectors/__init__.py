"""The codecs of vectors and of tensors that are kept exactly."""
