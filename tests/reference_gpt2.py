"""GPT-2 in plain numpy, as obvious as it gets: what every other implementation is held to.

It computes in the dtype of its tensors, so float64 tensors give a float64 oracle.
"""

import math

import numpy as np

_erf = np.frompyfunc(math.erf, 1, 1)


def gpt2(tokens, tensors, config):
    """Logits [seq, vocab] for tokens [seq]; tensors by canonical name, shaped as in checkpoints."""
    x = tensors["wte.weight"][tokens] + tensors["wpe.weight"][: len(tokens)]  # [seq, d]
    for layer in range(config.n_layer):
        x = block(x, layer, tensors, config)  # [seq, d] -> [seq, d]
    if "rotation.weight" in tensors:
        q = rotation(tensors["rotation.weight"], x.dtype)
        x = layer_norm(x @ q.T, "ln_f", tensors, config) @ q
    else:
        x = layer_norm(x, "ln_f", tensors, config)
    head = tensors["wte.weight" if config.tie_word_embeddings else "lm_head.weight"]
    return x @ head.T  # [seq, d] -> [seq, vocab]


def rotation(coded, dtype):
    """The rotation [d, d] of the residual stream, from the stored [d, d // 2]."""
    size, coded = len(coded), np.asarray(coded, np.float64)
    product = np.eye(size)
    for j in range(size - 1):
        v = np.zeros(size)
        v[j:-1] = coded[: size - 1 - j, j] if j < size // 2 else coded[j + 1 :, size - 2 - j][::-1]
        product = product @ reflection(v)
    swap = reflection(np.full(size, size**-0.5) - np.eye(size)[-1])  # ones / sqrt(d) and the last
    return (swap @ product @ swap).astype(dtype)


def reflection(v):
    return np.eye(len(v)) - 2 * np.outer(v, v) / (v @ v) if v.any() else np.eye(len(v))


def block(x, layer, tensors, config):
    h = layer_norm(x, f"h.{layer}.ln_1", tensors, config)
    x = x + attention(h, layer, tensors, config)
    h = layer_norm(x, f"h.{layer}.ln_2", tensors, config)
    h = linear(h, f"h.{layer}.mlp.c_fc", tensors)  # [seq, d] -> [seq, n_inner]
    h = ACTIVATIONS[config.activation_function](h)
    return x + linear(h, f"h.{layer}.mlp.c_proj", tensors)  # [seq, n_inner] -> [seq, d]


def attention(x, layer, tensors, config):
    qkv = linear(x, f"h.{layer}.attn.c_attn", tensors)  # [seq, d] -> [seq, 3 * d]
    heads = []
    for head in range(config.n_head):
        columns = slice(head * config.head_dim, (head + 1) * config.head_dim)
        q, k, v = (part[:, columns] for part in np.split(qkv, 3, axis=-1))  # [seq, head_dim]
        scores = q @ k.T  # [seq, seq]
        if config.scale_attn_weights:
            scores = scores / math.sqrt(config.head_dim)
        if config.scale_attn_by_inverse_layer_idx:
            scores = scores / (layer + 1)
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        heads.append(softmax(scores) @ v)  # [seq, head_dim]
    return linear(np.hstack(heads), f"h.{layer}.attn.c_proj", tensors)


def linear(x, name, tensors):
    return x @ tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def layer_norm(x, name, tensors, config):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.layer_norm_epsilon)
    return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu_new(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu_new": gelu_new,
    "gelu_pytorch_tanh": gelu_new,
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)).astype(x.dtype)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
}
