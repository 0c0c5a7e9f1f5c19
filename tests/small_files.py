"""Small `.rbe` files that need no compression: each tensor as it is."""

import numpy as np
from small_models import random_tensors

from rbe_cli.container.header import Provenance
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.writer import write_container
from rbe_cli.model.tensor_names import is_matrix

PROVENANCE = Provenance("test", "xxh3:0", "0", None, "none", 0, {})


def write_dense(path, config, tensors=None, *, seed=0, tokenizer_json=None):
    """Write a file with float32 matrices and vectors, and return its tensors."""
    tensors = random_tensors(config, seed) if tensors is None else tensors
    stored = [
        StoredTensor(name, tensor.shape, "float32", np.ascontiguousarray(tensor).tobytes())
        for name, tensor in sorted(tensors.items(), key=lambda item: is_matrix(item[0]))
    ]
    write_container(
        path,
        config=config,
        tensors=stored,
        tokenizer_json=tokenizer_json,
        provenance=PROVENANCE,
    )
    return tensors
