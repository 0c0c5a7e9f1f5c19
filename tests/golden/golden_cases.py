"""Define the golden files: the model of each, and how its tensors are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from golden.golden_matrices import Recipe, classic, in_codec, trellis

from rbe_cli.model.config import Gpt2Config


def sizes(**changes: Any) -> Gpt2Config:
    """A small model without any size that is a multiple of 16, but for one layer and two heads."""
    small = {
        "vocab_size": 61, "n_positions": 19, "n_embd": 18, "n_layer": 1, "n_head": 2, "n_inner": 37
    }  # fmt: skip
    return Gpt2Config(**small | changes)


@dataclass(frozen=True)
class GoldenCase:
    """A golden file.

    Attributes:
        recipe: how matrices are stored.
        config: of the model.
        others: matrices that are stored in another way, by name.
        vectors: the codecs of vectors, which are taken in turn.
        outliers: whether a few weights are far from the others.
        spread: by how much columns of a matrix differ, in octaves.
        ectcq_version: that the header names.
        has_tokenizer: whether the file has one.
        is_rotated: whether its residual stream is rotated.
    """

    recipe: Recipe
    config: Gpt2Config = field(default_factory=sizes)
    others: Mapping[str, Recipe] = field(default_factory=dict)
    vectors: tuple[str, ...] = ("coded",)
    outliers: bool = False
    spread: float = 0.5
    ectcq_version: int = 2
    has_tokenizer: bool = False
    is_rotated: bool = False


WIDE = sizes(vocab_size=2051, n_embd=6, n_inner=5)
"""The matrices of its embedding (and of its head) have three blocks of columns."""
ONES = Gpt2Config(vocab_size=1, n_positions=1, n_embd=1, n_layer=1, n_head=1, n_inner=1)
TALL = sizes(n_embd=66, n_inner=35, vocab_size=33, n_head=3)
"""More rows than two groups of lanes."""
ACTIVATIONS = ("gelu_new", "gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu")

ECTCQ_2 = {
    f"ectcq-2-{states}-states": GoldenCase(trellis(states), sizes(n_embd=34))
    for states in (8, 16, 32, 64)
} | {
    "ectcq-2-strided": GoldenCase(trellis(8, is_sorted=False), sizes(n_embd=34)),
    "ectcq-2-strided-tuned-64-states": GoldenCase(trellis(64, is_sorted=False, is_tuned=True)),
    "ectcq-2-escapes": GoldenCase(trellis(32, 0.1), outliers=True),
    "ectcq-2-near-lossless": GoldenCase(trellis(8, 0.001)),
    "ectcq-2-low-rate": GoldenCase(trellis(16, 4.0), sizes(n_embd=34), spread=2.0),
    "ectcq-2-tuned": GoldenCase(trellis(8, is_tuned=True)),
    "ectcq-2-three-column-blocks": GoldenCase(trellis(8), WIDE),
    "ectcq-2-three-strided-column-blocks": GoldenCase(
        trellis(16, is_sorted=False, is_tuned=True), WIDE
    ),
    "ectcq-2-untied-head": GoldenCase(trellis(8), sizes(tie_word_embeddings=False)),
    "ectcq-2-all-sizes-1": GoldenCase(trellis(8), ONES, vectors=("float32",)),
    "ectcq-2-tall": GoldenCase(trellis(8), TALL),
}
ECTCQ_1 = {
    f"ectcq-1-{states}-states": GoldenCase(trellis(states, is_sorted=False), ectcq_version=1)
    for states in (16, 32, 64)
} | {
    "ectcq-1-tuned": GoldenCase(trellis(8, is_sorted=False, is_tuned=True), ectcq_version=1),
}
FIXED = {
    f"fixed-2-{bits}-bits": GoldenCase(in_codec("fixed", bits), sizes(n_embd=34), spread=1.0)
    for bits in (2, 4, 8)
} | {
    "fixed-2-untied-head": GoldenCase(
        in_codec("fixed", 4), sizes(n_embd=66, n_head=3, tie_word_embeddings=False)
    ),
    "fixed-2-outliers": GoldenCase(in_codec("fixed", 8), outliers=True),
}
CLASSIC = {
    f"classic-1-{transform}": GoldenCase(
        trellis(8),
        sizes(n_embd=20),
        {
            "h.0.attn.c_attn.weight": classic(transform, 16, 0.5),  # edges of 4 rows, 12 columns
            "h.0.mlp.c_fc.weight": classic(transform, 256, 0.5),
            "wpe.weight": classic(transform, 18, 0.5),  # an edge of one column
        },
    )
    for transform in ("dct", "haar", "cdf97")
}
EXACT = {
    "float16-1": GoldenCase(in_codec("float16"), vectors=("float16",)),
    "float32-1": GoldenCase(
        in_codec("float32"), sizes(n_embd=10, tie_word_embeddings=False), vectors=("float32",)
    ),
    "scalar-1": GoldenCase(in_codec("float16"), sizes(n_embd=12), vectors=("scalar", "coded")),
    "coded-1-outliers": GoldenCase(
        in_codec("float16"), sizes(n_embd=12), vectors=("coded",), outliers=True
    ),
}
FINE = trellis(8, 0.05)
MODELS = {
    f"model-{name.replace('_', '-')}": GoldenCase(FINE, sizes(activation_function=name))
    for name in ACTIVATIONS
} | {
    "model-unscaled-attention": GoldenCase(FINE, sizes(n_layer=2, scale_attn_weights=False)),
    "model-attention-scaled-by-layer": GoldenCase(
        FINE, sizes(n_layer=3, scale_attn_by_inverse_layer_idx=True)
    ),
    "model-epsilon": GoldenCase(FINE, sizes(layer_norm_epsilon=0.25)),
    "model-ends-of-text": GoldenCase(FINE, sizes(bos_token_id=0, eos_token_id=tuple(range(1, 16)))),
    "model-with-tokenizer": GoldenCase(
        trellis(8), sizes(vocab_size=300, eos_token_id=0), has_tokenizer=True
    ),
}
ROTATED = {
    "format-2": GoldenCase(trellis(8), is_rotated=True),
    "format-2-odd-width": GoldenCase(FINE, sizes(n_embd=15, n_head=3), is_rotated=True),
    "format-2-untied-head": GoldenCase(
        in_codec("fixed", 8), sizes(n_embd=34, tie_word_embeddings=False), is_rotated=True
    ),
    "format-2-width-2": GoldenCase(in_codec("float16"), sizes(n_embd=2), is_rotated=True),
}
CASES = ECTCQ_2 | ECTCQ_1 | FIXED | CLASSIC | EXACT | MODELS | ROTATED
"""By name of the file."""
