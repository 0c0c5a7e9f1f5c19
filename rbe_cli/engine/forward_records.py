"""Define the records that forward_program.py takes, like those of kernels/kernel_records.py."""

import numpy as np

from rbe_cli.kernels.kernel_records import CACHE
from rbe_cli.weights.matrix_record import MATRIX

_INT, _FLOAT = np.int64, np.float32

NORM = np.dtype([("gamma", _INT), ("beta", _INT)])  # addresses of float32 [n_embd]
LAYER = np.dtype(
    [
        ("ln_1", NORM),
        ("c_attn", MATRIX),
        ("attn_proj", MATRIX),
        ("ln_2", NORM),
        ("c_fc", MATRIX),
        ("mlp_proj", MATRIX),
    ]
)
BUFFER = np.dtype([("address", _INT), ("stride", _INT)])  # float32 [tokens, stride / 4]
FORWARD = np.dtype(
    [
        ("layers", _INT),  # address of LAYER [n_layer]
        ("scales", _INT),  # address of float64 [n_layer], of the scores
        ("multiply", _INT),  # addresses of machine code
        ("multiply_int8", _INT),
        ("attend", _INT),
        ("n_layer", _INT),
        ("first", _INT),  # the layers that this run goes through: after the embeddings if 0,
        ("last", _INT),  # and on to the logits if n_layer
        ("n_embd", _INT),
        ("n_inner", _INT),
        ("activation", _INT),  # its number in vector_math.ACTIVATIONS
        ("eps", np.float64),
        ("wte", MATRIX),
        ("wpe", MATRIX),
        ("ln_f", NORM),
        # Where the stream is rotated, the head's input is mixed + ln_f times the sum of both
        # matrices. Else these have no panels, and the head's input is ln_f.
        ("mixed", NORM),
        ("mixing", MATRIX),
        ("mixing_rest", MATRIX),
        ("head", MATRIX),
        ("cache", CACHE),
        ("tokens", _INT),  # how many this time
        ("ids", _INT),  # addresses of int64 [tokens]: token, cache row, position
        ("rows", _INT),
        ("positions", _INT),
        ("wanted", _INT),  # how many tokens' logits are wanted
        ("wanted_tokens", _INT),  # address of int64 [wanted], ascending
        ("is_prompt", _INT),  # whether inputs are rounded to int8 for matrices that take it
        ("x", BUFFER),
        ("normed", BUFFER),
        ("qkv", BUFFER),
        ("attended", BUFFER),
        ("hidden", BUFFER),
        ("logits", BUFFER),
        ("quantised_inputs", _INT),  # address of [max(tokens, threads), quantised_bytes]
        ("quantised_bytes", _INT),
        ("scratch", _INT),  # address of [threads, scratch_bytes]
        ("scratch_bytes", _INT),
        ("flags", _INT),  # address of the team's barrier
    ]
)
