"""Name GPT-2's tensors, and compute the shapes that a config asks for.

Canonical names are Hugging Face's without the `transformer.` prefix. Weights of the
linear layers are stored `[in, out]` (HF's Conv1D order); `wte`, `wpe` and a separate
`lm_head` are `[rows, n_embd]`.
"""

import re
from math import prod

from rbe_cli.model.config import Gpt2Config

ROTATION = "rotation.weight"
"""Name of the rotation of the residual stream, which only a `.rbe` file may have."""

_MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_MATRIX = re.compile(
    r"(wte|wpe|lm_head|rotation|h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj))\.weight"
)

_READS_STREAM = re.compile(r"h\.\d+\.(attn\.c_attn|mlp\.c_fc)\.weight")
_STREAM_AXIS = re.compile(r"h\.\d+\.((attn|mlp)\.c_proj\.(weight|bias)|ln_[12]\.bias)")


def hugging_face_name(name: str) -> str:
    """Return the name that `GPT2LMHeadModel` gives to a tensor of this canonical name."""
    return name if name == "lm_head.weight" else f"transformer.{name}"


def is_mask_buffer(name: str) -> bool:
    """Return whether a canonical name is one of the causal-mask buffers that old files carry."""
    return _MASK_BUFFER.fullmatch(name) is not None


def is_matrix(name: str) -> bool:
    """Return whether a canonical name is a matrix: of a linear layer, an embedding, the head or a
    rotation.
    """
    return _MATRIX.fullmatch(name) is not None


def is_layer_norm(name: str) -> bool:
    """Return whether a canonical name is gamma or beta of a LayerNorm."""
    return name.split(".")[-2].startswith("ln_")


def reads_stream(name: str) -> bool:
    """Return whether the rows of a tensor are multiplied by normalised states of the stream."""
    return _READS_STREAM.fullmatch(name) is not None


def has_stream_axis(name: str) -> bool:
    """Return whether the last axis of a tensor is that of the stream's states.

    Such are the tensors that are added to the stream or to its normalised states, the embeddings,
    and a separate head.
    """
    return is_embedding(name) or _STREAM_AXIS.fullmatch(name) is not None


def layer_shapes(config: Gpt2Config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one layer's tensors, without the `h.N.` prefix, in order of use."""
    d, inner = config.n_embd, config.n_inner
    return {
        "ln_1.weight": (d,),
        "ln_1.bias": (d,),
        "attn.c_attn.weight": (d, 3 * d),
        "attn.c_attn.bias": (3 * d,),
        "attn.c_proj.weight": (d, d),
        "attn.c_proj.bias": (d,),
        "ln_2.weight": (d,),
        "ln_2.bias": (d,),
        "mlp.c_fc.weight": (d, inner),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, d),
        "mlp.c_proj.bias": (d,),
    }


def tensor_shapes(config: Gpt2Config) -> dict[str, tuple[int, ...]]:
    """Return canonical name -> shape of every tensor, in order of use; the head only if untied."""
    d = config.n_embd
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.vocab_size, d),
        "wpe.weight": (config.n_positions, d),
    }
    for layer in range(config.n_layer):
        for name, shape in layer_shapes(config).items():
            shapes[f"h.{layer}.{name}"] = shape
    shapes["ln_f.weight"] = (d,)
    shapes["ln_f.bias"] = (d,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, d)
    return shapes


def stored_shapes(config: Gpt2Config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of a `.rbe` file whose residual stream is rotated.

    A rotation keeps the vector of ones, so that d (d - 1) / 2 numbers are enough. It is the last
    tensor; a file of another kind lacks it.
    """
    d = config.n_embd
    return tensor_shapes(config) | {ROTATION: (d, d // 2)}


def parameter_count(config: Gpt2Config) -> int:
    """Return the number of parameters; a tied head is counted once."""
    return sum(prod(shape) for shape in tensor_shapes(config).values())


def is_of_layer(name: str) -> bool:
    """Return whether a canonical name belongs to one of the layers."""
    return name.startswith("h.")


def is_embedding(name: str) -> bool:
    """Return whether a matrix is stored `[rows, n_embd]`: an embedding or a separate head.

    As the right factor of a product, and so in the codec, it is the transpose.
    """
    return name in ("wte.weight", "wpe.weight", "lm_head.weight")
